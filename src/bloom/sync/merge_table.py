"""One table of a merge: the rows of the other side are found in the result, changed, or added."""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from bloom.sync.merge_report import Conflict, MergeReport, TableCount
from bloom.sync.merge_rows import unite_rows
from bloom.sync.merge_schema import ROW, Key, MergeRefused, Reference, Schema, Table, quoted

Values = tuple[Any, ...]
Row = Mapping[str, Any]

_BIRTH = re.compile(r"(created|started)_at(_epoch)?")
_OF_THE_DEVICE = frozenset({"synced_at", "sync_rev", "relevance_count", "occurrence_count"})
"""Columns in which claude-mem counts or notes something of one device: they do not make a row another row."""


class Uniting:
    """Unites `source`, the other side's form of `table`, into `table` of the result; with None there is nothing to add.

    `others` are the tables united before, by name: they know where rows that are pointed at have gone.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        table: Table,
        source: Table | None,
        base: Table | None,
        schema: Schema,
        others: Mapping[str, "Uniting"],
        count: TableCount,
        report: MergeReport,
        *,
        other_is_local: bool,
    ) -> None:
        self._db, self._table, self._source, self._schema = db, table, source, schema
        self._others, self._count, self._report, self._other_is_local = others, count, report, other_is_local
        self._name = quoted(table.name)
        self._number = len(others)
        shared = () if source is None else tuple(name for name in table.names if name in source.names)
        self._columns = tuple(name for name in shared if name != table.surrogate)
        self._late: list[Reference] = []
        self._references: list[Reference] = []
        for reference in () if source is None else source.references:
            if schema.table(reference.table) is None or not set(reference.columns) <= set(shared):
                continue
            (self._references if reference.table in others else self._late).append(reference)
        late = {column for reference in self._late for column in reference.columns}
        self._keys = tuple(key for key in table.keys if set(key.columns) <= set(self._columns))
        # A key that every row has decides alone; the others then only say what two rows may not share.
        self._deciding = tuple(key for key in self._keys if key.required) or self._keys
        self._by_content = not any(key.required for key in self._keys)
        self._content = tuple(name for name in self._columns if name not in late and name not in _OF_THE_DEVICE)
        self._compared = tuple(name for name in self._columns if name not in late)
        self._base = base
        self._birth = tuple(name for name in self._columns if _BIRTH.fullmatch(name))
        self._last = 0
        self._target = lru_cache(maxsize=65536)(self._find_target)
        if self._keys:
            count.identified_by = "key " + " or ".join(", ".join(key.columns) for key in self._deciding)

    def unite(self) -> None:
        """Bring the other side's rows in and fill in the counts, all but references to tables that come later."""
        ours, count = self._rows_of("main"), self._count
        theirs = self._rows_of("other") if self._source is not None else 0
        self._db.execute(f"CREATE TEMP TABLE moved_{self._number} (there INTEGER PRIMARY KEY, here INTEGER NOT NULL)")
        self._db.execute(f"CREATE TEMP TABLE fresh_{self._number} (there INTEGER PRIMARY KEY, here INTEGER NOT NULL)")
        added = self._bring_in() if self._source is not None else 0
        count.rows = self._rows_of("main")
        count.on_both_sides = theirs - added
        if self._other_is_local:
            count.local_rows, count.remote_rows = theirs, ours
            count.only_local, count.only_remote = added, ours - count.on_both_sides
        else:
            count.local_rows, count.remote_rows = ours, theirs
            count.only_local, count.only_remote = ours - count.on_both_sides, added

    def settle_late_references(self) -> None:
        """Point added rows at rows of tables that came later, or of their own table."""
        self._target.cache_clear()
        for reference in self._late:
            columns = ", ".join(map(quoted, reference.columns))
            assigned = ", ".join(f"{quoted(name)} = ?" for name in reference.columns)
            for there, here in self._db.execute(f"SELECT there, here FROM fresh_{self._number}").fetchall():
                old = self._db.execute(f"SELECT {columns} FROM other.{self._name} WHERE {ROW} = ?", (there,)).fetchone()
                self._db.execute(
                    f"UPDATE main.{self._name} SET {assigned} WHERE {ROW} = ?", (*self._target(reference, old), here)
                )

    # --- finding rows again

    def _bring_in(self) -> int:
        """Add or unite every row of the other side; the number of rows added."""
        has_rows = self._table.address == (ROW,)
        if has_rows:
            self._note_same()
        self._db.execute("CREATE TEMP TABLE rest (there INTEGER PRIMARY KEY, is_found INTEGER NOT NULL DEFAULT 0)")
        if self._by_content:
            self._index_contents()
        added = 0
        for there, row in self._other_rows(f"{ROW} NOT IN (SELECT there FROM same)" if has_rows else "1"):
            place = self._by_key(there, row)
            if place is not None:
                self._unite(there, place, row)
            elif self._by_content:
                self._db.execute("INSERT INTO rest (there) VALUES (?)", (there,))
            else:
                added += self._add(there, row)
        if self._by_content:
            # One way after the other, so that no row is taken for another which a surer way would have found.
            for there, row in self._other_rows(f"{ROW} IN (SELECT there FROM rest)"):
                place = self._db.execute(
                    "SELECT here FROM contents WHERE digest = ? ORDER BY here LIMIT 1",
                    (_digest([row[name] for name in self._content]),),
                ).fetchone()
                if place is not None:
                    self._unite(there, place, row)
                    self._db.execute("UPDATE rest SET is_found = 1 WHERE there = ?", (there,))
            for there, row in self._other_rows(f"{ROW} IN (SELECT there FROM rest WHERE NOT is_found)"):
                place = self._by_number(there, row)
                if place is not None:
                    self._unite(there, place, row)
                else:
                    added += self._add(there, row)
        for table in ("same", "rest", "contents"):
            self._db.execute(f"DROP TABLE IF EXISTS temp.{table}")
        return added

    def _note_same(self) -> None:
        """Note the rows that stand under the same number, wholly equal, on both sides: nearly all, as a rule."""
        same = "".join(f" AND o.{name} IS m.{name}" for name in map(quoted, self._columns))
        moved = "".join(
            f" AND o.{quoted(reference.columns[0])} NOT IN (SELECT there FROM moved_{parent._number})"
            for reference in self._references
            if reference.targets == ((parent := self._others[reference.table])._table.surrogate,)
        )
        self._db.execute("CREATE TEMP TABLE same (there INTEGER PRIMARY KEY)")
        self._db.execute(
            f"INSERT INTO same SELECT o.{ROW} FROM other.{self._name} AS o JOIN main.{self._name} AS m"
            f" ON m.{ROW} = o.{ROW} WHERE 1{same}{moved}"
        )

    def _index_contents(self) -> None:
        """Note the content of our rows that are not in `same`."""
        self._db.execute("CREATE TEMP TABLE contents (digest BLOB NOT NULL, here INTEGER NOT NULL)")
        columns = ", ".join((ROW, *map(quoted, self._content)))
        rows = self._db.execute(f"SELECT {columns} FROM main.{self._name} WHERE {ROW} NOT IN (SELECT there FROM same)")
        self._db.executemany("INSERT INTO contents VALUES (?, ?)", ((_digest(values), here) for here, *values in rows))
        self._db.execute("CREATE INDEX temp.contents_digest ON contents (digest, here)")
        self._db.execute("CREATE INDEX temp.contents_here ON contents (here)")

    def _other_rows(self, where: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        """(number or None, row) of the other side, with references as they have to be in the result."""
        number, order = (ROW, f" ORDER BY {ROW}") if self._table.address == (ROW,) else ("NULL", "")
        columns = ", ".join((number, *map(quoted, self._columns)))
        for there, *values in self._db.execute(f"SELECT {columns} FROM other.{self._name} WHERE {where}{order}"):
            row = dict(zip(self._columns, values, strict=True))
            for reference in self._references:
                old = tuple(row[name] for name in reference.columns)
                row.update(zip(reference.columns, self._target(reference, old), strict=True))
            yield there, row

    def _find_target(self, reference: Reference, values: Values) -> Values:
        """What `reference` with `values` on the other side has to be in the result."""
        parent = self._others[reference.table]
        if None in values or parent._source is None or parent._table.address != (ROW,):
            return values
        equal = " AND ".join(f"{quoted(name)} = ?" for name in reference.targets)
        found = self._db.execute(f"SELECT {ROW} FROM other.{parent._name} WHERE {equal}", values).fetchone()
        if found is None:
            return values
        targets = ", ".join(map(quoted, reference.targets))
        place = parent._place_of(found[0])
        new = self._db.execute(f"SELECT {targets} FROM main.{parent._name} WHERE {ROW} = ?", (place,)).fetchone()
        return values if new is None or None in new else new

    def _place_of(self, there: int) -> int:
        """The number in the result of the other side's row `there`."""
        row = self._db.execute(f"SELECT here FROM moved_{self._number} WHERE there = ?", (there,)).fetchone()
        return there if row is None else row[0]

    def _by_number(self, there: Any, row: Row) -> Values | None:
        """The row of the same number, not found for another yet, if both come from the same row of the base and point at
        the same rows.
        """
        if self._base_row(there, row) is None:
            return None
        is_free = self._db.execute("SELECT 1 FROM contents WHERE here = ?", (there,)).fetchone() is not None
        ours = self._ours((there,)) if is_free else None
        if ours is None or self._base_row(there, ours) is None:
            return None
        pointing = [column for reference in self._references for column in reference.columns]
        return (there,) if all(ours[column] == row[column] for column in pointing) else None

    def _base_row(self, number: Any, row: Row) -> dict[str, Any] | None:
        """The row of the base from which `row`, of that number, must come."""
        base = self._base
        if base is None or base.surrogate is None or base.surrogate != self._table.surrogate:
            return None
        if not (self._birth or base.autoincrement) or not set(self._birth) <= set(base.names):
            return None  # the number could have been given to another row since
        columns = [name for name in self._columns if name in base.names]
        found = self._db.execute(
            f"SELECT {', '.join(('1', *map(quoted, columns)))} FROM base.{self._name} WHERE {ROW} = ?", (number,)
        ).fetchone()
        old = None if found is None else dict(zip(columns, found[1:], strict=True))
        return old if old is not None and all(old[name] == row[name] for name in self._birth) else None

    def _by_key(self, there: Any, row: Row) -> Values | None:
        return next((place for key in self._deciding if (place := self._holder(key, there, row)) is not None), None)

    def _holder(self, key: Key, there: Any, row: Row) -> Values | None:
        """The address of the row of the result that has the key of `row`, which is the other side's `there`."""
        values = tuple(row[name] for name in key.columns)
        if None in values:
            return None
        where = ""
        if key.where is not None:
            where = f" AND ({key.where})"
            under = f"SELECT 1 FROM other.{self._name} WHERE {ROW} = ?{where}"
            if self._db.execute(under, (there,)).fetchone() is None:
                return None
        address = ", ".join(map(quoted, self._table.address))
        equal = " AND ".join(f"{quoted(name)} = ?" for name in key.columns)
        return self._db.execute(f"SELECT {address} FROM main.{self._name} WHERE {equal}{where}", values).fetchone()

    def _ours(self, place: Values) -> dict[str, Any] | None:
        columns = ", ".join(("1", *map(quoted, self._columns)))
        found = self._db.execute(f"SELECT {columns} FROM main.{self._name} WHERE {self._at}", place).fetchone()
        return None if found is None else dict(zip(self._columns, found[1:], strict=True))

    # --- writing

    def _unite(self, there: Any, place: Values, row: dict[str, Any]) -> None:
        """Make one of `row` and the row of the result at `place`."""
        if self._table.address == (ROW,) and place != (there,):
            self._db.execute(f"INSERT INTO moved_{self._number} VALUES (?, ?)", (there, place[0]))
        if self._by_content:
            self._db.execute("DELETE FROM contents WHERE here = ?", place)
        ours = self._ours(place)
        if ours is None:
            raise MergeRefused(f"a row of {self._table.name} is gone while the databases are merged")
        first, second = ({name: side[name] for name in self._compared} for side in (ours, row))
        if first == second:
            return
        base = self._base_row(place[0], ours)
        if base is not None and self._base_row(place[0], row) is None:
            base = None
        new, differences = unite_rows(first, second, base)
        self._make_room(there, new, place, [key for key in self._keys if any(new[c] != ours[c] for c in key.columns)])
        changed = {name: value for name, value in new.items() if value != ours[name]}
        self._count.changed += 1
        for name, value in changed.items():
            mark, value = _bound(value)
            self._db.execute(f"UPDATE main.{self._name} SET {quoted(name)} = {mark} WHERE {self._at}", (value, *place))
        self._follow(ours, changed)
        for difference in differences:
            local, remote = difference.first, difference.second
            if self._other_is_local:
                local, remote = remote, local
            kept = "remote" if difference.first_stays == self._other_is_local else "local"
            names = next((key.columns for key in self._deciding if all(ours[c] is not None for c in key.columns)), ())
            label = ", ".join(str(ours[name]) for name in names) or str(place[0])
            self._report.add_conflict(Conflict(self._table.name, label, difference.column, local, remote, kept))

    def _follow(self, old: Row, changed: Row) -> None:
        """Point rows of the result that pointed at changed values at the new ones, as ON UPDATE CASCADE would."""
        for child in self._schema.tables:
            for reference in child.references:
                if reference.table != self._table.name or not set(reference.targets) & changed.keys():
                    continue
                before = tuple(old[name] for name in reference.targets)
                after = tuple(changed.get(name, old[name]) for name in reference.targets)
                if None in before or None in after:
                    continue
                assigned = ", ".join(f"{quoted(name)} = ?" for name in reference.columns)
                equal = " AND ".join(f"{quoted(name)} = ?" for name in reference.columns)
                self._db.execute(f"UPDATE main.{quoted(child.name)} SET {assigned} WHERE {equal}", (*after, *before))

    def _add(self, there: Any, row: dict[str, Any]) -> int:
        self._make_room(there, row, None, [key for key in self._keys if key not in self._deciding])
        names, values = list(row), list(row.values())
        if self._table.surrogate is not None:
            names.append(self._table.surrogate)
            values.append(self._next_number())
        marks, values = zip(*map(_bound, values), strict=True)
        cursor = self._db.execute(
            f"INSERT INTO main.{self._name} ({', '.join(map(quoted, names))}) VALUES ({', '.join(marks)})", values
        )
        if self._table.address == (ROW,):
            if cursor.lastrowid != there:
                self._db.execute(f"INSERT INTO moved_{self._number} VALUES (?, ?)", (there, cursor.lastrowid))
            if self._late:
                self._db.execute(f"INSERT INTO fresh_{self._number} VALUES (?, ?)", (there, cursor.lastrowid))
        return 1

    def _next_number(self) -> int:
        """A number that no row has had, here or in the base."""
        if not self._last:
            taken = [f"SELECT max({ROW}) AS n FROM main.{self._name}"]
            databases = ("main", "base") if self._base is not None else ("main",)
            for database in databases if self._table.autoincrement else ():
                name = self._table.name.replace("'", "''")
                taken.append(f"SELECT seq FROM {database}.sqlite_sequence WHERE name = '{name}'")
            highest = f"SELECT coalesce(max(n), 0) FROM ({' UNION ALL '.join(taken)})"
            self._last = self._db.execute(highest).fetchone()[0]
        self._last += 1
        return self._last

    def _make_room(self, there: Any, row: dict[str, Any], place: Values | None, keys: list[Key]) -> None:
        """Two rows that are not the same may not share a key: one of them, the same one whichever side is which, gives
        the value up, and what points at it then points at the other.
        """
        for key in keys:
            holder = self._holder(key, there, row)
            if holder is None or holder == place:
                continue
            decisive = {name for decider in self._deciding if decider.required for name in decider.columns}
            free = [c for c in key.columns if c not in decisive and not self._table.column(c).required]
            other = self._ours(holder)
            if not free or other is None:
                raise MergeRefused(
                    f"two rows of {self._table.name} that are not the same have the same {', '.join(key.columns)}"
                )
            compared = [name for name in self._columns if name in decisive] or list(self._compared)
            if _digest([row[name] for name in compared]) > _digest([other[name] for name in compared]):
                row[free[0]] = None
            else:
                self._db.execute(f"UPDATE main.{self._name} SET {quoted(free[0])} = NULL WHERE {self._at}", holder)

    @property
    def _at(self) -> str:
        return " AND ".join(f"{quoted(name)} = ?" for name in self._table.address)

    def _rows_of(self, database: str) -> int:
        return self._db.execute(f"SELECT count(*) FROM {database}.{self._name}").fetchone()[0]


def _bound(value: Any) -> tuple[str, Any]:
    """How `value` is written in a statement. Text that is no UTF-8 (`merge.read_text`) keeps its bytes."""
    if isinstance(value, str) and not value.isascii():
        content = value.encode("utf-8", "surrogateescape")
        return "CAST(? AS TEXT)", content
    return "?", value


def _digest(values: list[Any]) -> bytes:
    return blake2b(repr(values).encode(), digest_size=16).digest()
