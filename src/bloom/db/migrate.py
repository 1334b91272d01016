"""Bring the schema `bloom` to this release: Alembic, under an advisory lock, with time-outs that protect live traffic."""

import importlib
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from bloom.base.errors import BloomError
from bloom.db.pool import CONNECT_TIMEOUT_SEC, database_unavailable

HEAD = "0013"
"""The newest revision this release knows; a test holds it against the revision files."""

ADVISORY_LOCK = 0x626C6F6F6D  # "bloom"
_log = logging.getLogger(__name__)


class UnknownSchema(BloomError):
    """The database was made by a newer release; this one must not touch it."""

    code = "unknown_schema"


def current_revision(database_url: str) -> str | None:
    """The revision of the database, None when it holds no `bloom` schema yet. Raises Unavailable when it is away."""
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC) as connection:
            return _revision(connection)
    except psycopg.OperationalError as error:
        raise database_unavailable() from error


def upgrade(database_url: str) -> list[str]:
    """Apply what is missing and return the revisions applied, oldest first; any number of processes may call this at once.

    Raises UnknownSchema when the database is of a newer release, Unavailable when it does not answer.
    """
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC) as connection:
            revision = _revision(connection)
            if revision == HEAD:
                return []
            connection.execute("select pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            connection.commit()
            revision = _revision(connection)
            connection.commit()
            return [] if revision == HEAD else _run_alembic(database_url, revision)
    except psycopg.OperationalError as error:
        raise database_unavailable() from error


def _revision(connection: psycopg.Connection) -> str | None:
    row = connection.execute("select to_regclass('bloom.alembic_version') is not null").fetchone()
    if row is None or not row[0]:
        return None
    row = connection.execute("select version_num from bloom.alembic_version").fetchone()
    return None if row is None else str(row[0])


def _alembic(**attributes: Any) -> tuple[Any, list[str]]:
    """Alembic's configuration for these attributes of env.py, and the revisions that this release knows, newest first.

    Alembic and SQLAlchemy take half a second to import: only who has something to migrate pays for it.
    """
    config = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes.update(attributes)
    script = importlib.import_module("alembic.script").ScriptDirectory.from_config(config)
    return config, [step.revision for step in script.walk_revisions()]


def _run_alembic(database_url: str, revision: str | None) -> list[str]:
    config, known = _alembic(database_url=database_url)
    if revision is not None and revision not in known:
        raise UnknownSchema(
            f"The database has schema revision {revision}, which this release does not know (it knows up to {HEAD}). "
            "Install the newer release of bloom-runtime that made it."
        )
    importlib.import_module("alembic.command").upgrade(config, "head")
    applied = list(reversed(known[: known.index(revision)] if revision else known))
    _log.info("schema upgraded", extra={"applied": ",".join(applied)})
    return applied


def known_revisions() -> list[str]:
    """The revisions that this release knows, newest first."""
    return _alembic()[1]


@contextmanager
def rebuilding(database_url: str) -> Generator[tuple[psycopg.Connection[Any], Callable[[str], None]]]:
    """One transaction in which the schema is made anew: its connection, and what brings it to a revision. Committed at the
    end, rolled back on any error; no migration of another process comes between.

    Raises Unavailable when the database does not answer or goes away.
    """
    sqlalchemy = importlib.import_module("sqlalchemy")
    url = sqlalchemy.engine.make_url(database_url).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    try:
        with engine.begin() as transaction:
            connection: psycopg.Connection[Any] = transaction.connection.driver_connection
            connection.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            connection.execute("set local lock_timeout = '5s'")
            config, _ = _alembic(connection=transaction)

            def migrate(revision: str) -> None:
                importlib.import_module("alembic.command").upgrade(config, revision)

            yield connection, migrate
    except (psycopg.OperationalError, sqlalchemy.exc.OperationalError) as error:
        raise database_unavailable() from error
    finally:
        engine.dispose()
