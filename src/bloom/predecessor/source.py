"""Typed reads of the predecessor's tables, in one transaction that cannot write."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from bloom.base.errors import ConfigurationError
from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.predecessor.plan import Found
from bloom.predecessor.report import SHOWN, Report
from bloom.predecessor.rows import Row, moment

_SQL = load_queries("bloom.predecessor", "source.sql")

BATCH = 500
_CHILDREN = {"leases": "started_at", "llm_results": "completed_at", "runtime_artifacts": "created_at"}
"""What belongs to tasks, and the time by which it is ordered."""

_NEEDED = {
    "llm_tasks": {"id", "status", "prompt"},
    **{name: {"id", "task_id"} for name in _CHILDREN},
    "workers": {"id"},
    "audit_logs": {"id"},
    "runtime_settings": set[str](),
}


class Source:
    """The tables of the schema `public` that are the predecessor's. `open` comes first."""

    def __init__(self, connection: Connection, report: Report) -> None:
        self._connection = connection
        self._report = report
        self._columns: dict[str, set[str]] = {}

    async def open(self) -> None:
        """Look which tables there are. Raises ConfigurationError when none is."""
        await self._connection.execute(_SQL["begin"])
        rows = await fetch_all(self._connection, _SQL["columns"], {"names": list(_NEEDED)})
        found = {row["name"]: set(row["columns"]) for row in rows}
        self._columns = {name: columns for name, columns in found.items() if _NEEDED[name] <= columns}
        for name in found.keys() - self._columns.keys():
            self._report.note(name, f"not read: without the columns {', '.join(sorted(_NEEDED[name]))}", ())
        if "llm_tasks" not in self._columns:
            raise ConfigurationError("The schema public of this database holds no table llm_tasks of the predecessor")

    def has(self, table: str) -> bool:
        """Whether a table is there."""
        return table in self._columns

    async def all(self, table: str) -> list[Row]:
        """All rows of a small table; none where it is missing."""
        return await self._rows("all", table) if self.has(table) else []

    async def buckets(self) -> dict[str, int]:
        """How many artifacts lie in which bucket."""
        if not self.has("runtime_artifacts"):
            return {}
        return {row["bucket"]: row["count"] for row in await fetch_all(self._connection, _SQL["stores"], {})}

    async def tasks(self) -> AsyncGenerator[list[Found]]:
        """All tasks with what belongs to them, oldest first, in batches."""
        order = "t.created_at" if "created_at" in self._columns["llm_tasks"] else "t.id"
        async with self._connection.cursor("tasks") as cursor:
            await cursor.execute(_SQL["tasks"].replace(b"/* order */", order.encode()))
            while rows := await cursor.fetchmany(BATCH):
                yield await self._with_children([row["row"] for row in rows])

    async def note_orphans(self) -> None:
        """Report what belongs to no task."""
        for table in _CHILDREN:
            if self.has(table):
                row = await fetch_one(self._connection, _named("orphans", table), {"shown": SHOWN})
                if row is not None and row["count"]:
                    self._report.amounts[table].found += row["count"]
                    self._report.note(table, "not taken: of no task", map(str, row["ids"]), rows=row["count"])

    async def _with_children(self, tasks: Sequence[Row]) -> list[Found]:
        ids = [row["id"] for row in tasks]
        children: dict[str, defaultdict[Any, list[Row]]] = {name: defaultdict(list) for name in _CHILDREN}
        for table, by_task in children.items():
            rows = await self._rows("of_tasks", table, ids=ids) if self.has(table) else []
            time = _CHILDREN[table]
            for row in sorted(rows, key=lambda row: (moment(row, time) or "", str(row["id"]))):
                by_task[row["task_id"]].append(row)
        return [Found(task, *(children[name][task["id"]] for name in _CHILDREN)) for task in tasks]

    async def _rows(self, query: str, table: str, **params: Any) -> list[Row]:
        return [row["row"] for row in await fetch_all(self._connection, _named(query, table), params)]


def _named(query: str, table: str) -> bytes:
    return _SQL[query].replace(b"/* table */", table.encode())
