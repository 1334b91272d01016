"""Alembic environment: one connection, one transaction, the version table inside the schema `bloom`."""

from alembic import context
from sqlalchemy import create_engine, pool, text
from sqlalchemy.engine import make_url

LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "15min"


def run() -> None:
    """Run the revisions that Alembic asks for, all or none: within the transaction of a given connection, or in one of its
    own.
    """
    given = context.config.attributes.get("connection")
    if given is not None:
        context.configure(connection=given, version_table_schema="bloom")
        context.run_migrations()
        return
    url = make_url(context.config.attributes["database_url"]).set(drivername="postgresql+psycopg")
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"set lock_timeout = '{LOCK_TIMEOUT}'; set statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.execute(text("create schema if not exists bloom"))
        connection.commit()
        context.configure(connection=connection, version_table_schema="bloom")
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
