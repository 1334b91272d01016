"""What a merge has to know of a database's tables: found in the database, since claude-mem's versions differ."""

import re
import sqlite3
from dataclasses import dataclass

from bloom.sync.errors import SyncError

ROW = "_rowid_"
"""The number that SQLite gives each row of an ordinary table."""
_SHADOWS = ("data", "idx", "content", "docsize", "config")
_SOFT_REFERENCES = {"session_db_id": ("sdk_sessions", "id"), "observation_id": ("observations", "id")}
"""References that some versions of claude-mem have without declaring them: column, then (table, column)."""


class MergeRefused(SyncError):
    """These two databases cannot be made one; nothing was changed."""

    code = "merge_refused"


def quoted(name: str) -> str:
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Column:
    """A stored column. `default` is SQL text."""

    name: str
    type: str
    required: bool
    default: str | None


@dataclass(frozen=True)
class Key:
    """Columns that no two rows share. `required`: none of them can be NULL. `where`: of a partial index, SQL text."""

    columns: tuple[str, ...]
    required: bool
    where: str | None = None


@dataclass(frozen=True)
class Reference:
    """`columns` point at `targets`, the columns of one row of `table`."""

    columns: tuple[str, ...]
    table: str
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table with rows of its own. `surrogate`: the column whose numbers SQLite hands out, which mean nothing elsewhere.

    `address`: the columns that name one row within this database.
    """

    name: str
    sql: str
    columns: tuple[Column, ...]
    surrogate: str | None
    autoincrement: bool
    address: tuple[str, ...]
    keys: tuple[Key, ...]
    references: tuple[Reference, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """Its column of that name."""
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True)
class Schema:
    """The tables of a database, those that others point at first; its full-text tables and what feeds them."""

    tables: tuple[Table, ...]
    indexed_tables: tuple[str, ...]
    """FTS5 tables over the content of another table: they can be rebuilt from it."""
    objects: tuple[tuple[str, str, str, str], ...]
    """(type, name, table, SQL) of all tables, indexes, triggers and views that were made by a statement."""
    version: int
    """The highest migration that claude-mem has noted; 0 when it notes none."""

    def table(self, name: str) -> Table | None:
        """The table of that name, if there is one."""
        return next((table for table in self.tables if table.name == name), None)


def read_schema(db: sqlite3.Connection, database: str) -> Schema:
    """Read the schema of an attached `database` (main or another name)."""
    rows = db.execute(
        f"SELECT type, name, tbl_name, sql FROM {database}.sqlite_master WHERE sql IS NOT NULL ORDER BY rowid"
    ).fetchall()
    virtual = {
        name: sql for kind, name, _, sql in rows if kind == "table" and re.match(r"\s*CREATE\s+VIRTUAL", sql, re.I)
    }
    shadows = {f"{name}_{suffix}" for name in virtual for suffix in _SHADOWS}
    made = [row for row in rows if row[1] not in shadows and row[2] not in shadows and row[1] != "sqlite_sequence"]
    tables = [
        _table(db, database, name, sql, rows)
        for kind, name, _, sql in made
        if kind == "table" and name not in virtual and not name.startswith("sqlite_")
    ]
    names = {table.name for table in tables}
    version = 0
    if "schema_versions" in names:
        version = db.execute(f"SELECT coalesce(max(version), 0) FROM {database}.schema_versions").fetchone()[0]
    indexed = tuple(name for name, sql in virtual.items() if re.search(r"\bcontent\s*=\s*['\"]?\w", sql, re.I))
    return Schema(_parents_first(tables), indexed, tuple(made), version)


def _table(db: sqlite3.Connection, database: str, name: str, sql: str, rows: list[tuple[str, str, str, str]]) -> Table:
    info = [row for row in db.execute(f"PRAGMA {database}.table_xinfo({quoted(name)})") if row[6] == 0]
    primary = tuple(row[1] for row in sorted(info, key=lambda row: row[5]) if row[5])
    # Only a rowid has a number without being told one, and only a lone INTEGER PRIMARY KEY is its name.
    has_rowid = not re.search(r"\)[^)]*\bWITHOUT\s+ROWID\b[^)]*$", sql, re.I)
    types = {row[1]: row[2].upper() for row in info}
    is_rowid = has_rowid and len(primary) == 1 and types[primary[0]] == "INTEGER"
    never_null = primary if is_rowid or not has_rowid else ()
    columns = tuple(Column(row[1], row[2], bool(row[3]) or row[1] in never_null, row[4]) for row in info)
    references = _references(db, database, name, columns)
    surrogate = primary[0] if is_rowid and all(primary != reference.columns for reference in references) else None
    required = {column.name for column in columns if column.required}
    keys: list[Key] = []
    if primary and surrogate is None:
        keys.append(Key(primary, set(primary) <= required))
    for _, index, unique, origin, partial in db.execute(f"PRAGMA {database}.index_list({quoted(name)})").fetchall():
        if not unique or origin == "pk":
            continue
        parts = [row[2] for row in db.execute(f"PRAGMA {database}.index_info({quoted(index)})")]
        if None in parts or (surrogate is not None and surrogate in parts):
            continue  # an expression, or a key that holds the number means nothing elsewhere
        where = _where(next(row[3] for row in rows if row[1] == index)) if partial else None
        keys.append(Key(tuple(parts), set(parts) <= required and not partial, where))
    keys.sort(key=lambda key: (not key.required, len(key.columns), key.columns))
    autoincrement = surrogate is not None and re.search(r"\bAUTOINCREMENT\b", sql, re.I) is not None
    address = (ROW,) if has_rowid else primary
    return Table(name, sql, columns, surrogate, autoincrement, address, tuple(keys), references)


def _where(sql: str) -> str:
    match = re.search(r"\)\s*WHERE\s+(.*)$", sql, re.I | re.S)
    return match.group(1) if match else "1"


def _references(db: sqlite3.Connection, database: str, name: str, columns: tuple[Column, ...]) -> tuple[Reference, ...]:
    parts: dict[int, list[tuple[str, str, str | None]]] = {}
    for number, _, table, here, there, *_ in db.execute(
        f"PRAGMA {database}.foreign_key_list({quoted(name)})"
    ).fetchall():
        parts.setdefault(number, []).append((table, here, there))
    found: list[Reference] = []
    for group in parts.values():
        table = group[0][0]
        targets = tuple(there for _, _, there in group if there is not None)
        if not targets:  # "REFERENCES parent": its primary key
            info = db.execute(f"PRAGMA {database}.table_info({quoted(table)})").fetchall()
            targets = tuple(row[1] for row in sorted(info, key=lambda row: row[5]) if row[5])
        found.append(Reference(tuple(here for _, here, _ in group), table, targets))
    declared = {column for reference in found for column in reference.columns}
    for column in columns:
        if column.name in _SOFT_REFERENCES and column.name not in declared:
            table, target = _SOFT_REFERENCES[column.name]
            found.append(Reference((column.name,), table, (target,)))
    return tuple(found)


def _parents_first(tables: list[Table]) -> tuple[Table, ...]:
    """Order `tables` so that those pointed at come first; within a ring of references the order is by name."""
    left = {table.name: table for table in sorted(tables, key=lambda table: table.name)}
    ordered: list[Table] = []
    while left:
        free = [
            table
            for table in left.values()
            if not any(reference.table in left and reference.table != table.name for reference in table.references)
        ]
        ordered.extend(left.pop(table.name) for table in free or [next(iter(left.values()))])
    return tuple(ordered)
