"""Typed calls of the audit log's SQL."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from bloom.audit.model import AuditEntry, AuditFilter, Export, Position, Seal
from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.audit", "queries.sql", "seals.sql")
_CHAIN_LOCK = 0x626C6F6F6D01  # "bloom", 1


async def page(connection: Connection, wanted: AuditFilter, *, before: int | None, limit: int) -> list[AuditEntry]:
    """Up to `limit` of the wanted entries with an id below `before`, newest first."""
    params: dict[str, Any] = {**asdict(wanted), "before": before, "limit": limit}
    # Never prepared: a plan for any values could use no index.
    cursor = await connection.execute(_SQL["page"], params, prepare=False)
    return [AuditEntry(**row) for row in await cursor.fetchall()]


async def in_commit_order(connection: Connection, *, after: Position, limit: int) -> list[tuple[Position, AuditEntry]]:
    """Up to `limit` entries behind `after`, with their positions. Nothing will ever come between them."""
    rows = await fetch_all(connection, _SQL["in_commit_order"], {"tx": str(after.tx), "id": after.id, "limit": limit})
    return [(Position(int(row.pop("transaction")), row["id"]), AuditEntry(**row)) for row in rows]


async def horizon(connection: Connection) -> tuple[int, int]:
    """The oldest transaction under way and the next one that will begin."""
    row = await fetch_one(connection, _SQL["horizon"], {})
    return (int(row["oldest"]), int(row["next"])) if row else (0, 0)


async def lock_chain(connection: Connection) -> bool:
    """Whether this transaction alone may append to the chain, until it ends. Does not wait."""
    row = await fetch_one(connection, _SQL["lock_chain"], {"key": _CHAIN_LOCK})
    return row is not None and row["mine"]


async def digests(
    connection: Connection, *, after: Position, up_to: Position | None = None, limit: int | None = None
) -> list[tuple[Position, bytes]]:
    """The entries behind `after`, in the order of the chain, with their digests: all up to `up_to`, or up to `limit` of those
    before which nothing can appear any more.
    """
    upper = {"to_tx": None, "to_id": 0} if up_to is None else {"to_tx": str(up_to.tx), "to_id": up_to.id}
    rows = await fetch_all(connection, _SQL["digests"], {"tx": str(after.tx), "id": after.id, "limit": limit, **upper})
    return [(Position(int(row["transaction"]), row["id"]), row["digest"]) for row in rows]


async def entries(connection: Connection, ids: Sequence[int]) -> Mapping[int, Mapping[str, str]]:
    """Those of the entries `ids` that are there, as the texts that are hashed and exported."""
    return {row.pop("key"): row for row in await fetch_all(connection, _SQL["entries"], {"ids": ids})}


async def last_seal(connection: Connection) -> Seal | None:
    """The end of the chain."""
    row = await fetch_one(connection, _SQL["last_seal"], {})
    return None if row is None else _seal(row)


async def append(connection: Connection, seal: Seal) -> None:
    """Append a seal to the chain."""
    params: dict[str, Any] = {
        "first_n": seal.first_n,
        "ids": seal.ids,
        "marks": seal.marks,
        "hash": seal.hash,
        "last_tx": str(seal.last.tx),
        "last_id": seal.last.id,
    }
    await connection.execute(_SQL["append"], params)


async def seals(connection: Connection, n: int, *, limit: int) -> tuple[Seal | None, list[Seal]]:
    """Up to `limit` seals, the first of them that of the entry number `n`, and the one before them."""
    found = [_seal(row) for row in await fetch_all(connection, _SQL["seals"], {"n": n, "limit": limit + 1})]
    return (found[0], found[1:]) if found and found[0].last_n < n else (None, found[:limit])


async def tail(connection: Connection, *, after: Position) -> tuple[int, float | None]:
    """How many entries lie behind `after`, and how many seconds ago the oldest of them was written."""
    row = await fetch_one(connection, _SQL["tail"], {"tx": str(after.tx), "id": after.id})
    return (row["unsealed"], row["age_sec"]) if row else (0, None)


async def first_since(connection: Connection, since: datetime) -> int | None:
    """The number of the first sealed entry at or after `since`."""
    row = await fetch_one(connection, _SQL["first_since"], {"since": since})
    return None if row is None else row["n"]


async def last_until(connection: Connection, until: datetime) -> int | None:
    """The number of the last sealed entry before `until`."""
    row = await fetch_one(connection, _SQL["last_until"], {"until": until})
    return None if row is None else row["n"]


async def next_export(connection: Connection, *, most: int, every_sec: float) -> Export | None:
    """The file to write next: one that was planned and perhaps not written, else a new one. It stays the same until it is
    `exported`, whatever happens meanwhile.
    """
    row = await fetch_one(connection, _SQL["unfinished_export"], {})
    if row is None:
        row = await fetch_one(connection, _SQL["plan_export"], {"most": most, "every_sec": every_sec})
    return None if row is None else Export(**row)


async def exported(connection: Connection, export: Export) -> None:
    """Note that the file is in the object store."""
    await connection.execute(_SQL["exported"], {"first_n": export.first_n})


async def exports(connection: Connection) -> list[Export]:
    """The files that are in the object store, in their order."""
    return [Export(**row) for row in await fetch_all(connection, _SQL["exports"], {})]


def _seal(row: DictRow) -> Seal:
    last = Position(int(row["last_tx"]), row["last_id"])
    return Seal(row["first_n"], row["ids"], row["marks"], row["hash"], last)
