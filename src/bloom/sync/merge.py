"""Two histories of one claude-mem database become one, with the rows of both.

The result begins as a copy of the local snapshot, so that the numbers of the local rows never change: claude-mem's worker
and its search index know rows by them. Remote rows that are not in it are added under numbers of their own, and what
pointed at their old numbers is pointed at the new ones. (If the remote claude-mem is the newer one, its database is the
beginning: it has the newer tables.) A row is found again on the other side

1. by a key that no two rows share (a session by its id, an observation by its session and content hash);
2. by its content, each copy for itself: two equal prompts stay two prompts;
3. by its number, if it stands in `base`, the snapshot that both sides come from: then one side has changed it.

A row that is not found is added. Nothing is dropped: a row that one side deleted and the other kept comes back.
Everything stays in SQLite, with temporary tables on disk, so memory does not grow with the rows.
"""

import contextlib
import os
import sqlite3
from pathlib import Path

from bloom.sync.merge_report import MergeReport, TableCount
from bloom.sync.merge_schema import MergeRefused, Schema, quoted, read_schema
from bloom.sync.merge_table import Uniting

KNOWN_TABLES = frozenset(
    {
        *("sdk_sessions", "observations", "session_summaries", "user_prompts", "pending_messages"),
        *("observation_feedback", "directives"),
    }
)
_DESCRIBES_SCHEMA = frozenset({"schema_versions"})
"""Not rows of the memory: they say which structure the database has, and stay as they are in the result."""


def merge_databases(local: Path, remote: Path, result: Path, base: Path | None = None) -> MergeReport:
    """Write the union of `local` and `remote` to `result` (made anew) and tell what came from where.

    `local`, `remote` and `base` are snapshots that nobody writes to; they are only read. `base` is the version that both
    come from, if it is at hand. Raises MergeRefused if the two are no histories of one kind of database, or the result
    would not pass SQLite's own checks; `result` is removed then.
    """
    try:
        with contextlib.closing(_open(remote)) as there, contextlib.closing(_open(local)) as here:
            versions = [read_schema(db, "main").version for db in (here, there)]
            from_remote = versions[1] > versions[0]
            _copy(there if from_remote else here, result)
        with contextlib.closing(sqlite3.connect(result, isolation_level=None, uri=True)) as db:
            return _merge_into(db, local if from_remote else remote, base, other_is_local=from_remote)
    except sqlite3.DatabaseError as error:
        result.unlink(missing_ok=True)
        raise MergeRefused(f"the databases cannot be merged: {error}") from None
    except BaseException:
        result.unlink(missing_ok=True)
        raise


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(_uri(path), uri=True)


def _uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"


def _copy(source: sqlite3.Connection, result: Path) -> None:
    result.unlink(missing_ok=True)
    os.close(os.open(result, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(sqlite3.connect(result)) as target:
        source.backup(target)


def _merge_into(db: sqlite3.Connection, other: Path, base: Path | None, *, other_is_local: bool) -> MergeReport:
    db.text_factory = read_text
    # The result is thrown away when anything goes wrong, so it needs no journal.
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "cache_size=-32768", "temp_store=FILE"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    db.execute("ATTACH ? AS other", (_uri(other),))
    if base is not None:
        db.execute("ATTACH ? AS base", (_uri(base),))
    report = MergeReport()
    ours, theirs = read_schema(db, "main"), read_schema(db, "other")
    if not {table.name for table in ours.tables} & {table.name for table in theirs.tables} - _DESCRIBES_SCHEMA:
        raise MergeRefused("the two databases have no table in common: they are not of the same program")
    if ours.version != theirs.version:
        newer, older = ("remote", "local") if other_is_local else ("local", "remote")
        report.notes.append(
            f"the {older} database is of an older claude-mem (schema {theirs.version}) than the {newer} one "
            f"({ours.version}); the result has the newer structure"
        )
    broken = _broken_references(db, "main") + _broken_references(db, "other")
    db.execute("BEGIN")
    _widen(db, ours, theirs)
    ours = read_schema(db, "main")
    bases = read_schema(db, "base") if base is not None else None
    feeding = _feeding_triggers(ours)
    for name, _ in feeding:
        db.execute(f"DROP TRIGGER main.{quoted(name)}")
    united: dict[str, Uniting] = {}
    for table in ours.tables:
        source = theirs.table(table.name)
        if table.name in _DESCRIBES_SCHEMA:
            continue
        count = TableCount(table.name, table.name in KNOWN_TABLES, "content")
        uniting = Uniting(
            db,
            table,
            source,
            bases.table(table.name) if bases else None,
            ours,
            united,
            count,
            report,
            other_is_local=other_is_local,
        )
        united[table.name] = uniting
        uniting.unite()
        report.tables.append(count)
    for uniting in united.values():
        uniting.settle_late_references()
    for _, sql in feeding:
        db.execute(sql)
    for name in ours.indexed_tables:
        db.execute(f"INSERT INTO main.{quoted(name)} ({quoted(name)}) VALUES ('rebuild')")
    db.execute("COMMIT")
    _check(db, report, broken)
    return report


def read_text(content: bytes) -> str:
    """Text as SQLite keeps it: it does not look whether it is UTF-8."""
    return content.decode("utf-8", "surrogateescape")


def _widen(db: sqlite3.Connection, ours: Schema, theirs: Schema) -> None:
    """Give the result the tables and columns that only the other side has. Raises MergeRefused where that cannot be."""
    made = {name for _, name, _, _ in ours.objects}
    missing = {name for _, name, _, _ in theirs.objects} - made
    new_tables = {name for kind, name, _, _ in theirs.objects if kind == "table" and name in missing}
    for _, name, _, sql in theirs.objects:
        if name in missing and any(table in sql for table in new_tables):  # with their indexes and triggers
            db.execute(sql)
    for table in ours.tables:
        source = theirs.table(table.name)
        if source is None:
            continue
        for column in table.columns:
            if column.required and column.default is None and column.name not in (*source.names, table.surrogate):
                raise _too_different(table.name, column.name)
        for column in source.columns:
            if column.name in table.names:
                continue
            if column.required and column.default is None:
                raise _too_different(table.name, column.name)
            fixed = column.default is not None and not column.default.upper().startswith(("CURRENT_", "("))
            default = f" DEFAULT {column.default}" if fixed else ""
            db.execute(f"ALTER TABLE main.{quoted(table.name)} ADD COLUMN {quoted(column.name)} {column.type}{default}")


def _too_different(table: str, column: str) -> MergeRefused:
    return MergeRefused(
        f"the two databases are of versions of claude-mem that differ too much (column {column} of {table} is only on one "
        "side); update claude-mem on both machines and start it once"
    )


def _feeding_triggers(schema: Schema) -> list[tuple[str, str]]:
    """The triggers that feed full-text tables which are rebuilt at the end anyway: (name, SQL)."""
    return [
        (name, sql)
        for kind, name, _, sql in schema.objects
        if kind == "trigger" and any(table in sql for table in schema.indexed_tables)
    ]


def _broken_references(db: sqlite3.Connection, database: str) -> int:
    try:
        return sum(1 for _ in db.execute(f"PRAGMA {database}.foreign_key_check"))
    except sqlite3.OperationalError:  # a reference to a table or key that is not there: SQLite cannot check it
        return 0


def _check(db: sqlite3.Connection, report: MergeReport, broken_before: int) -> None:
    """Raises MergeRefused if SQLite finds fault with the result, or a row count says that something was dropped."""
    answer = db.execute("PRAGMA main.integrity_check(1)").fetchone()[0]
    if answer != "ok":
        raise MergeRefused(f"the merged database does not pass the integrity check: {answer}")
    broken = _broken_references(db, "main")
    if broken > broken_before:
        raise MergeRefused(
            f"the merged database has {broken} rows that point at nothing, {broken_before} had so before"
        )
    if broken:
        report.notes.append(f"{broken} rows point at rows that are not there; they did so before the merge")
    for count in report.tables:
        told = count.on_both_sides + count.only_local + count.only_remote
        if count.rows != told:
            raise MergeRefused(f"the merged table {count.table} has {count.rows} rows instead of {told}")
