"""Alembic environment: one connection, one transaction, the version table inside the schema `bloom`."""

import json

from alembic import context
from sqlalchemy import Connection, text

from bloom.db.migrate import engine_of

LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "15min"


def run() -> None:
    """Run the revisions that Alembic asks for, all or none: within the transaction of a given connection, or in one of its
    own. Offline their SQL is written instead.
    """
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", transactional_ddl=False, version_table_schema="bloom")
        context.run_migrations()
        return
    given = context.config.attributes.get("connection")
    if given is not None:
        context.configure(connection=given, version_table_schema="bloom")
        context.run_migrations()
        _say_who_may_run(given)
        return
    engine = engine_of(context.config.attributes["database_url"])
    with engine.connect() as connection:
        connection.execute(text(f"set lock_timeout = '{LOCK_TIMEOUT}'; set statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.execute(text("create schema if not exists bloom"))
        connection.commit()
        context.configure(connection=connection, version_table_schema="bloom")
        with context.begin_transaction():
            context.run_migrations()
            _say_who_may_run(connection)
    engine.dispose()


def _say_who_may_run(connection: Connection) -> None:
    """Leave word for releases that do not know this revision: the oldest that runs on it. `migrate.check_schema` reads it."""
    revision = connection.scalar(text("select version_num from bloom.alembic_version"))
    steps = context.script.iterate_revisions(revision, "base")
    oldest = max((getattr(step.module, "oldest_program", "") for step in steps), default="")
    said = json.dumps({"revision": revision, "oldest_program": oldest})
    # No colon of it is a parameter: exec_driver_sql takes the text as it is.
    connection.exec_driver_sql(f"comment on table bloom.alembic_version is '{said}'")


run()
