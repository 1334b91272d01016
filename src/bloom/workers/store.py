"""Typed calls of the workers' SQL."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from bloom.audit.model import MEMBRIDGE
from bloom.base.ids import WorkerId
from bloom.db.pool import Connection, as_json, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.workers.model import OFFLINE_AFTER_SEC, ListedWorker, Worker, WorkerStatus
from bloom.workers.schemas import Board, RegisterWorker

_SQL = load_queries("bloom.workers")


def _worker(row: DictRow) -> Worker:
    fields: dict[str, Any] = {**row, "status": WorkerStatus(row["status"])}
    return Worker(**fields)


async def all_workers(connection: Connection) -> list[Worker]:
    """Every worker, by name."""
    return [_worker(row) for row in await fetch_all(connection, _SQL["all"], {})]


async def by_ids(connection: Connection, ids: Sequence[WorkerId]) -> dict[WorkerId, Worker]:
    """The workers of `ids` that exist."""
    return {row["id"]: _worker(row) for row in await fetch_all(connection, _SQL["by_ids"], {"ids": list(ids)})}


async def routable(connection: Connection) -> list[Worker]:
    """Workers that the router may choose from: online, not draining, with the Claude CLI and a free slot."""
    return [_worker(row) for row in await fetch_all(connection, _SQL["routable"], {})]


async def lock(connection: Connection, ids: Iterable[WorkerId]) -> dict[WorkerId, Worker]:
    """Lock the workers of `ids` until the transaction ends and return them, their leases counted under the lock."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    await connection.execute(_SQL["lock"], {"ids": wanted})
    return await by_ids(connection, wanted)


async def upsert(connection: Connection, request: RegisterWorker, *, actor: str, now: datetime | None) -> bool:
    """Insert or update the worker by name; fields that the request leaves out are kept. True when it is new."""
    given = request.model_fields_set
    capabilities = request.capabilities
    named = capabilities.model_fields_set if "capabilities" in given else set[str]()
    row = await fetch_one(
        connection,
        _SQL["upsert"],
        {
            "id": request.name,
            "url": request.url,
            "status": request.status if "status" in given else None,
            "claude_cli": capabilities.claude_cli if "claude_cli" in named else None,
            "max_concurrency": capabilities.max_concurrency if "max_concurrency" in named else None,
            "labels": capabilities.labels if "labels" in named else None,
            "ip_addrs": request.ip_addrs,
            "agent_version": request.agent_version,
            "os_info": request.os_info,
            "install_method": request.install_method,
            "actor": actor,
            "now": now,
        },
    )
    return bool(row and row["inserted"])


async def list_many(connection: Connection, listed: Sequence[ListedWorker], *, now: datetime | None) -> bool:
    """Take over Membridge's list: see the statement. True when somebody came online by it. Lock the workers first."""
    params = {
        "items": as_json([asdict(worker) for worker in listed]),
        "after_sec": OFFLINE_AFTER_SEC,
        "actor": MEMBRIDGE,
        "now": now,
    }
    row = await fetch_one(connection, _SQL["list_many"], params)
    return bool(row and row["came_online"])


async def set_draining(
    connection: Connection, worker_id: WorkerId, *, draining: bool, action: str, actor: str, now: datetime | None
) -> bool:
    """Drain or resume a worker. False when there is no such worker."""
    params = {"id": worker_id, "draining": draining, "action": action, "actor": actor, "now": now}
    return await fetch_one(connection, _SQL["set_draining"], params) is not None


async def heard_from_many(
    connection: Connection,
    ids: Iterable[WorkerId],
    *,
    claims: bool,
    boards: Mapping[WorkerId, Board] | None = None,
    now: datetime | None,
) -> None:
    """Note that these workers spoke, and what some of them told of their machines; `claims`: by the worker plane."""
    told = as_json({worker_id: board.model_dump() for worker_id, board in (boards or {}).items()})
    params = {"ids": sorted(set(ids)), "claims": claims, "boards": told, "now": now}
    await connection.execute(_SQL["heard_from_many"], params)


async def set_polling_many(
    connection: Connection, waits: Mapping[WorkerId, float | None], *, now: datetime | None
) -> None:
    """Note for how many seconds from now each (locked) worker's claim waits; None: it does not."""
    items = as_json([{"worker_id": worker_id, "wait_sec": wait} for worker_id, wait in waits.items()])
    await connection.execute(_SQL["set_polling_many"], {"items": items, "now": now})


async def mark_silent(connection: Connection, *, now: datetime | None) -> list[WorkerId]:
    """Mark offline who uses claim and was silent for too long; returns them."""
    params = {"after_sec": OFFLINE_AFTER_SEC, "now": now}
    return [row["id"] for row in await fetch_all(connection, _SQL["mark_silent"], params)]


async def mark_expired_holders(connection: Connection, expiries: Mapping[WorkerId, datetime]) -> None:
    """Mark offline the holders of leases that expired at these times, if they were not heard from since."""
    items = as_json([{"worker_id": w, "expires_at": at.isoformat()} for w, at in expiries.items()])
    await connection.execute(_SQL["mark_expired_holders"], {"items": items})


async def count_by_state(connection: Connection) -> list[DictRow]:
    """`{status, draining, workers, slots}` of each state that there is."""
    return await fetch_all(connection, _SQL["count_by_state"], {})


async def count(connection: Connection) -> dict[str, int]:
    """`{total, online}`."""
    row = await fetch_one(connection, _SQL["count"], {})
    return dict(row or {})
