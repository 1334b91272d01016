"""Bring the schema `bloom` to this release: Alembic, under an advisory lock, with time-outs that protect live traffic."""

import importlib
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Literal

from bloom.base.errors import BloomError, ConfigurationError, Conflict, Unavailable
from bloom.db.pool import CONNECT_TIMEOUT_SEC, database_unavailable

HEAD = "0009"
"""The newest revision this release knows; a test holds it against the revision files."""

ADVISORY_LOCK = 0x626C6F6F6D  # "bloom"
_log = logging.getLogger(__name__)


class UnknownSchema(BloomError):
    """The database was made by a newer release that has taken away what this one needs; it must not touch it."""

    code = "unknown_schema"


def current_revision(database_url: str) -> str | None:
    """The revision of the database, None when it holds no `bloom` schema yet. Raises Unavailable when it is away."""
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC) as connection:
            return _revision(connection)
    except psycopg.OperationalError as error:
        raise database_unavailable() from error


def upgrade(database_url: str) -> list[str]:
    """Apply what is missing and return the revisions applied, oldest first; any number of processes may call this at once. A
    schema of a newer release on which this one runs is left as it is.

    Raises UnknownSchema for any other newer schema, ConfigurationError when this role may not do what has to be done, and
    Unavailable when the database does not answer.
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
            if revision is not None and _is_newer(connection, revision):
                return []
            applied = [] if revision == HEAD else _run(database_url, revision)
            _follow_the_log(connection)
            return applied
    except psycopg.OperationalError as error:
        raise database_unavailable() from error


def check_schema(database_url: str) -> None:
    """Return if this release runs on the schema. Raises ConfigurationError for an older one (or none), UnknownSchema for a
    newer one that says otherwise, Unavailable.
    """
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC) as connection:
            revision = _revision(connection)
            if revision == HEAD or (revision is not None and _is_newer(connection, revision)):
                return
    except psycopg.OperationalError as error:
        raise database_unavailable() from error
    raise ConfigurationError("The schema of the database is older than this release: run `bloom db upgrade`.")


def _is_newer(connection: psycopg.Connection, revision: str) -> bool:
    """Whether the schema is newer, and yet one that this release runs on. Raises UnknownSchema where it does not: what an older
    release may do is told by the newer one, in the comment of the version table (see env.py).
    """
    if revision in known_revisions():
        return False
    row = connection.execute("select obj_description('bloom.alembic_version'::regclass)").fetchone()
    try:
        said: Any = json.loads(row[0]) if row else None
        if said["revision"] == revision and said["oldest_program"] <= HEAD:
            _log.info("the schema is newer than this release, which runs on it", extra={"revision": revision})
            return True
    except (ValueError, TypeError, KeyError):
        pass  # not told: no
    raise UnknownSchema(
        f"The database has schema revision {revision}, which this release does not know (it knows up to {HEAD}). "
        "Install the newer release of bloom-runtime that made it."
    )


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


def alembic(**attributes: Any) -> tuple[Any, list[str]]:
    """Alembic's configuration for these attributes of env.py, and the revisions that this release knows, newest first.

    Alembic and SQLAlchemy take half a second to import: only who has something to migrate pays for it.
    """
    config = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes.update(attributes)
    script = importlib.import_module("alembic.script").ScriptDirectory.from_config(config)
    return config, [step.revision for step in script.walk_revisions()]


def _run(database_url: str, revision: str | None) -> list[str]:
    config, known = alembic(database_url=database_url)
    try:
        importlib.import_module("alembic.command").upgrade(config, "head")
    except importlib.import_module("sqlalchemy.exc").OperationalError as error:
        if not isinstance(error.orig, psycopg.errors.LockNotAvailable):
            raise database_unavailable() from error
        raise Unavailable(
            "The schema was not upgraded: somebody has held a table for longer than five seconds. Try again.",
            code="schema_busy",
        ) from None
    applied = list(reversed(known[: known.index(revision)] if revision else known))
    _log.info("schema upgraded", extra={"applied": ",".join(applied)})
    return applied


def known_revisions() -> list[str]:
    """The revisions that this release knows, newest first."""
    return alembic()[1]


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """One transaction on the schema: `connection` and the migrations are within it."""

    connection: psycopg.Connection[Any]
    _config: Any

    def upgrade(self, revision: str) -> None:
        """Apply what is missing up to `revision`."""
        importlib.import_module("alembic.command").upgrade(self._config, revision)

    def downgrade(self, revision: str) -> None:
        """Take back what is above `revision`."""
        importlib.import_module("alembic.command").downgrade(self._config, revision)


@contextmanager
def rebuilding(database_url: str) -> Generator[Rebuilding]:
    """One transaction in which the schema is changed while nobody works on it: committed at the end, rolled back on any error;
    no migration of another process comes between.

    Raises Conflict (`database_in_use`) while programs of ours are connected, Unavailable when the database does not answer or
    goes away.
    """
    sqlalchemy = importlib.import_module("sqlalchemy")
    engine = engine_of(database_url)
    try:
        with engine.begin() as transaction:
            connection: psycopg.Connection[Any] = transaction.connection.driver_connection
            connection.execute("select pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            connection.execute("set local lock_timeout = '5s'")
            if _others(connection):
                raise _in_use()
            yield Rebuilding(connection, alembic(connection=transaction)[0])
    except (psycopg.OperationalError, sqlalchemy.exc.OperationalError) as error:
        if isinstance(getattr(error, "orig", error), psycopg.errors.LockNotAvailable):
            raise _in_use() from error
        raise database_unavailable() from error
    finally:
        engine.dispose()


def engine_of(database_url: str) -> Any:
    """SQLAlchemy's engine of a database, which Alembic needs. The driver reads the URL: SQLAlchemy takes no list of hosts."""
    sqlalchemy = importlib.import_module("sqlalchemy")
    return sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC),
        poolclass=sqlalchemy.pool.NullPool,
    )


def _others(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("""
        select count(*) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and application_name like 'bloom-%'
    """).fetchone()
    return 0 if row is None else row[0]


def _in_use() -> Conflict:
    return Conflict(
        "The database is in use: stop the runtime, Membridge and whatever else of BLOOM works on it first.",
        code="database_in_use",
    )
