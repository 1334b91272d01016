"""Typed calls of the keys' SQL."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from bloom.base.ids import KeyId
from bloom.base.roles import Role
from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.keys.model import Key

_SQL = load_queries("bloom.keys")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to insert. `join_token` names the token that it was exchanged for."""

    id: KeyId
    name: str
    role: Role
    worker_name: str | None
    starts_with: str
    digest: bytes
    expires_at: datetime | None = None
    expires_in_sec: float | None = None
    join_token: KeyId | None = None


@dataclass(frozen=True, slots=True)
class NewSecret:
    """What is stored of a secret."""

    digest: bytes
    starts_with: str


@dataclass(frozen=True, slots=True)
class ValidKey:
    """A key that may be used now; `seconds_left` is None for one that does not expire."""

    id: KeyId
    name: str
    role: Role
    worker_name: str | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token. `worker_name` None: the machine that joins chooses."""

    id: KeyId
    name: str
    worker_name: str | None


def _key(row: DictRow) -> Key:
    fields: dict[str, Any] = {**row, "role": Role(row["role"])}
    return Key(**fields)


async def insert(connection: Connection, key: NewKey, *, actor: str, now: datetime | None) -> Key | None:
    """Store a new key. None when its name is taken."""
    params: dict[str, Any] = {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "worker_name": key.worker_name,
        "starts_with": key.starts_with,
        "digest": key.digest,
        "expires_at": key.expires_at,
        "expires_in_sec": key.expires_in_sec,
        "join_token": key.join_token,
        "actor": actor,
        "now": now,
    }
    row = await fetch_one(connection, _SQL["insert"], params)
    return None if row is None else _key(row)


async def by_id(connection: Connection, key_id: KeyId, *, now: datetime | None) -> Key | None:
    """One key, None when there is none of this id."""
    row = await fetch_one(connection, _SQL["by_id"], {"id": key_id, "now": now})
    return None if row is None else _key(row)


async def page(connection: Connection, *, before: int | None, limit: int, now: datetime | None) -> list[Key]:
    """Up to `limit` keys with a `seq` below `before`, newest first."""
    return [
        _key(row) for row in await fetch_all(connection, _SQL["page"], {"before": before, "limit": limit, "now": now})
    ]


async def find_valid(
    connection: Connection, digests: Sequence[bytes], ids: Sequence[KeyId], *, now: datetime | None
) -> dict[bytes | KeyId, ValidKey]:
    """The valid ones among the keys of these digests (of both secrets) and of these ids, each by what it was asked for by."""
    rows = await fetch_all(connection, _SQL["find_valid"], {"digests": list(digests), "ids": list(ids), "now": now})
    found: dict[bytes | KeyId, ValidKey] = {}
    for row in rows:
        key = ValidKey(row["id"], row["name"], Role(row["role"]), row["worker_name"], row["seconds_left"])
        found[key.id if row["digest"] is None else bytes(row["digest"])] = key
    return found


async def used_many(connection: Connection, ids: Iterable[KeyId], *, now: datetime | None) -> None:
    """Note that these keys were used."""
    await connection.execute(_SQL["used_many"], {"ids": sorted(set(ids)), "now": now})


async def revoke(connection: Connection, key_id: KeyId, *, actor: str, now: datetime | None) -> bool:
    """End a key. False when this changes nothing."""
    return await fetch_one(connection, _SQL["revoke"], {"id": key_id, "actor": actor, "now": now}) is not None


async def rotate(
    connection: Connection,
    key_id: KeyId,
    new: NewSecret,
    *,
    overlap_sec: float,
    expires_in_sec: float | None,
    actor: str,
    now: datetime | None,
) -> Key | None:
    """Give a key a new secret. None when it is not valid, or a join token."""
    params: dict[str, Any] = {
        "id": key_id,
        "digest": new.digest,
        "starts_with": new.starts_with,
        "overlap_sec": overlap_sec,
        "expires_in_sec": expires_in_sec,
        "actor": actor,
        "now": now,
    }
    row = await fetch_one(connection, _SQL["rotate"], params)
    return None if row is None else _key(row)


async def use_up(
    connection: Connection, digest: bytes, *, wanted: str | None, now: datetime | None
) -> JoinToken | None:
    """Use up the join token of this digest for the worker `wanted` (None: the one it was made for). None when it is not
    valid, or made for another worker.
    """
    row = await fetch_one(connection, _SQL["use_up"], {"digest": digest, "wanted": wanted, "now": now})
    return None if row is None else JoinToken(row["id"], row["name"], row["worker_name"])


async def join_token(connection: Connection, digest: bytes, *, now: datetime | None) -> tuple[str | None, bool] | None:
    """For whom the join token of this digest is, and whether it is valid; None when it is no join token."""
    row = await fetch_one(connection, _SQL["join_token"], {"digest": digest, "now": now})
    return None if row is None else (row["worker_name"], row["valid"])


async def take_worker_name(connection: Connection, worker_name: str) -> bool:
    """Whether this name never was anybody's; until the transaction ends nobody else gets it by this call."""
    await connection.execute(_SQL["lock_worker_name"], {"worker_name": worker_name})
    row = await fetch_one(connection, _SQL["worker_name_taken"], {"worker_name": worker_name})
    return row is not None and not row["taken"]
