"""Bring the schema `bloom` to this release: Alembic, under an advisory lock, with time-outs that protect live traffic."""

import importlib
import logging
from pathlib import Path

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


def _run_alembic(database_url: str, revision: str | None) -> list[str]:
    # Alembic and SQLAlchemy take half a second to import: only who has something to migrate pays for it.
    command = importlib.import_module("alembic.command")
    config_module = importlib.import_module("alembic.config")
    script_module = importlib.import_module("alembic.script")
    config = config_module.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["database_url"] = database_url
    script = script_module.ScriptDirectory.from_config(config)
    known = [step.revision for step in script.walk_revisions()]
    if revision is not None and revision not in known:
        raise UnknownSchema(
            f"The database has schema revision {revision}, which this release does not know (it knows up to {HEAD}). "
            "Install the newer release of bloom-runtime that made it."
        )
    command.upgrade(config, "head")
    applied = list(reversed(known[: known.index(revision)] if revision else known))
    _log.info("schema upgraded", extra={"applied": ",".join(applied)})
    return applied
