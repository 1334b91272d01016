"""Creating and reading tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from bloom.base.ids import TaskId
from bloom.db.pool import Connection, as_json, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.tasks.model import Task, TaskFilter, TaskStatus

_SQL = load_queries("bloom.tasks.store", "tasks.sql")


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to insert. `digest` (hex) is of its body, to know a reused idempotency key with another one."""

    id: TaskId
    fields: Mapping[str, Any]
    actor: str
    scope: str
    idempotency_key: str | None
    digest: str


@dataclass(frozen=True, slots=True)
class UsedKey:
    """What an idempotency key stands for."""

    task_id: TaskId
    digest: str


def task_from_row(row: DictRow) -> Task:
    """A Task of a row that has its columns."""
    fields: dict[str, Any] = {**row, "status": TaskStatus(row["status"])}
    return Task(**fields)


async def insert_many(
    connection: Connection, tasks: Sequence[NewTask], *, now: datetime | None
) -> dict[TaskId, DictRow]:
    """Insert `tasks`; returns `{seq, due, created_at}` of each that was. One whose idempotency key is taken is left out; no
    two of one call may share a key.
    """
    items = [
        {
            **task.fields,
            "id": task.id,
            "actor": task.actor,
            "scope": task.scope,
            "idempotency_key": task.idempotency_key,
            "digest": task.digest,
        }
        for task in tasks
    ]
    if keys := [(task.scope, task.idempotency_key) for task in tasks if task.idempotency_key is not None]:
        await connection.execute(_SQL["purge_expired_keys"], {**_scopes_and_keys(keys), "now": now})
    rows = await fetch_all(connection, _SQL["insert_many"], {"items": as_json(items), "now": now})
    return {row.pop("id"): row for row in rows}


async def used_keys(connection: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], UsedKey]:
    """What these (scope, idempotency key) pairs stand for."""
    rows = await fetch_all(connection, _SQL["by_idempotency_keys"], _scopes_and_keys(keys))
    return {(row["scope"], row["key"]): UsedKey(TaskId(row["task_id"]), row["digest"]) for row in rows}


def _scopes_and_keys(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    return {"scopes": sorted({scope for scope, _ in pairs}), "keys": sorted({key for _, key in pairs})}


async def by_ids(connection: Connection, ids: Sequence[TaskId]) -> dict[TaskId, Task]:
    """The tasks of `ids` that exist, whole."""
    rows = await fetch_all(connection, _SQL["by_ids"], {"ids": list(ids)})
    return {row["id"]: task_from_row(row) for row in rows}


async def page(
    connection: Connection, *, status: TaskStatus | None, before: int | None, limit: int, cut: int
) -> list[Task]:
    """Up to `limit` tasks with a `seq` below `before`, newest first, prompts cut to `cut` characters."""
    params = {"status": status, "before": before, "limit": limit, "cut": cut}
    rows = await fetch_all(connection, _SQL["page" if status is None else "page_by_status"], params)
    return [task_from_row(row) for row in rows]


async def search(
    connection: Connection, wanted: TaskFilter, *, before: int | None, limit: int, reach: int, cut: int
) -> tuple[list[Task], int | None]:
    """Up to `limit` of the wanted tasks among the `reach` newest with a `seq` below `before`, prompts cut to `cut` characters.
    With fewer than `limit`: the last `seq` that was looked at, None when there are no others.
    """
    text = None if wanted.text is None else "".join(_in_any_case(character) for character in wanted.text)
    params = {**asdict(wanted), "text": text, "before": before, "limit": limit, "reach": reach, "cut": cut}
    rows = await fetch_all(connection, _SQL["search" if wanted.status is None else "search_by_status"], params)
    tasks = [task_from_row(row) for row in rows]
    if len(rows) == limit:
        return tasks, None
    last = await fetch_one(connection, _SQL["reached" if wanted.status is None else "reached_by_status"], params)
    return tasks, last["seq"] if last else None


def _in_any_case(character: str) -> str:
    """As a regular expression: a database of the locale C, as the embedded one is, knows no case but that of ASCII."""
    lower, upper = character.lower(), character.upper()
    if lower != upper and len(lower) == len(upper) == 1:
        return f"[{lower}{upper}]"
    return character if character.isalnum() or not character.isascii() else f"\\{character}"


async def exists(connection: Connection, task_id: TaskId) -> bool:
    """Whether there is such a task."""
    return await fetch_one(connection, _SQL["exists"], {"id": task_id}) is not None
