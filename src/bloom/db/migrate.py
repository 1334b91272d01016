"""Bring the schema `bloom` to this release: Alembic, under an advisory lock, with time-outs that protect live traffic."""

import importlib
import logging
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Literal

from bloom.base.errors import BloomError, ConfigurationError
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

    Raises ConfigurationError when this role may not do what has to be done, UnknownSchema when the database is of a newer
    release, Unavailable when it does not answer.
    """
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC) as connection:
            revision = _revision(connection)
            if revision == HEAD and not _is_behind_the_log(connection):
                return []
            connection.execute("select pg_advisory_lock(%s)", (ADVISORY_LOCK,))
            connection.commit()
            revision = _revision(connection)
            connection.commit()
            applied = [] if revision == HEAD else _run_alembic(database_url, revision)
            _follow_the_log(connection)
            return applied
    except psycopg.OperationalError as error:
        raise database_unavailable() from error


def _revision(connection: psycopg.Connection) -> str | None:
    row = connection.execute("select to_regclass('bloom.alembic_version') is not null").fetchone()
    if row is None or not row[0]:
        return None
    row = connection.execute("select version_num from bloom.alembic_version").fetchone()
    return None if row is None else str(row[0])


_BEHIND = """
    select ahead, ahead > bloom.audit_ahead() as is_behind
    from (select greatest(tx::text::bigint - pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 1, 0) as ahead
          from bloom.audit_log order by tx desc limit 1) as newest
"""
_FOLLOW = """
    create or replace function bloom.audit_ahead() returns bigint immutable language sql as 'select {ahead}::bigint';
    create or replace function bloom.audit_tx() returns xid8 language sql as
        'select (pg_current_xact_id()::text::bigint + bloom.audit_ahead())::text::xid8'
"""


def _is_behind_the_log(connection: psycopg.Connection) -> bool:
    """Whether the audit log has entries of transactions that this server has not begun yet: it was restored from another."""
    row = connection.execute(_BEHIND).fetchone()
    return row is not None and row[1]


def _follow_the_log(connection: psycopg.Connection) -> None:
    """Let the audit log go on behind its last entry when it was restored into a server that has counted less transactions:
    what is written now would come before entries that were sealed and told, and these would seem to be of the future.
    """
    row = connection.execute(_BEHIND).fetchone()
    if row is not None and row[1]:
        try:
            connection.execute(SQL(_FOLLOW).format(ahead=Literal(row[0])))
        except psycopg.errors.InsufficientPrivilege:
            raise ConfigurationError(
                "The audit log was restored from another server: run `bloom db upgrade` once as the owner of the schema"
            ) from None
        connection.commit()
        _log.info("the audit log was restored from another server and goes on behind its last entry")


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
