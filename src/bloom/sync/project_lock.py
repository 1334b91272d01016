"""`active.lock` in the bucket: says that a push is under way. It saves work; what is current it does not decide."""

import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from bloom.base.clock import to_ms
from bloom.blobs.errors import BlobChanged, BlobError, BlobMissing
from bloom.blobs.interface import BlobStore
from bloom.sync.errors import Locked

_MILLISECONDS = 10**11
"""A number above this is milliseconds, one below seconds: 10^11 s lies 3,000 years ahead, 10^11 ms in 1973."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who takes the lock. `owner` is the database's own name, so that a push that was killed does not block its rerun."""

    owner: str
    node_id: str
    hostname: str
    project: str
    canonical_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class LockFields:
    """The lock as it stands in the bucket. `expires_at_ms` without the grace."""

    hostname: str
    owner: str | None
    epoch: int | None
    expires_at_ms: int
    nonce: str | None


def epoch_ms(value: object) -> int | None:
    """A time in the forms that clients write: milliseconds, seconds, ISO 8601. None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value if value > _MILLISECONDS else value * 1000)
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return to_ms(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return None


def read_lock(content: bytes, ttl_sec: int) -> LockFields:
    """`content` of the lock. A plain client's has no expiry: it ends `ttl_sec` after its timestamp; one without, at once."""
    try:
        answer: object = json.loads(content)
    except ValueError:
        answer = None
    fields = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    expires = epoch_ms(fields.get("expires_at"))
    if expires is None:
        begun = epoch_ms(fields.get("timestamp"))
        expires = 0 if begun is None else begun + ttl_sec * 1000
    owner, epoch, nonce = fields.get("owner"), fields.get("epoch"), fields.get("nonce")
    return LockFields(
        hostname=str(fields.get("hostname", "an unknown host")),
        owner=owner if isinstance(owner, str) else None,
        epoch=epoch if isinstance(epoch, int) else None,
        expires_at_ms=expires,
        nonce=nonce if isinstance(nonce, str) else None,
    )


@asynccontextmanager
async def project_lock(
    store: BlobStore, key: str, holder: Holder, *, ttl_sec: int, grace_sec: int, conditions: bool
) -> AsyncGenerator[None]:
    """Hold the lock; it is released whatever happens, except that this process is killed.

    Taken from another: when it is `grace_sec` past its end, when its owner is this database, when it is of an earlier
    epoch. `conditions`: the store honours conditional writes. Raises Locked, BlobUnavailable.
    """
    nonce = secrets.token_hex(8)
    await _take(store, key, holder, nonce, ttl_sec=ttl_sec, grace_sec=grace_sec, conditions=conditions)
    try:
        yield
    finally:
        try:
            if read_lock(await store.get(key), ttl_sec).nonce == nonce:
                await store.delete(key)
        except BlobError:
            pass  # it ends by itself; what the push came to matters more


async def remove_left_lock(store: BlobStore, key: str, owner: str, *, ttl_sec: int) -> None:
    """Remove the lock if a push of the database `owner` that was cut off left it. Raises BlobUnavailable."""
    try:
        if read_lock(await store.get(key), ttl_sec).owner == owner:
            await store.delete(key)
    except BlobMissing:
        return


async def _take(
    store: BlobStore, key: str, holder: Holder, nonce: str, *, ttl_sec: int, grace_sec: int, conditions: bool
) -> None:
    try:
        content, tag = await store.read(key)
        present = read_lock(content, ttl_sec)
        is_own = present.owner == holder.owner and present.hostname == holder.hostname
        is_older = present.epoch is not None and present.epoch < holder.epoch
        left_ms = present.expires_at_ms + grace_sec * 1000 - int(time.time() * 1000)
        if left_ms > 0 and not is_own and not is_older:
            raise _locked(present.hostname, left_ms)
    except BlobMissing:
        tag = None
    now = datetime.now(UTC)
    mine = json.dumps(
        {
            "hostname": holder.hostname,
            "timestamp": to_ms(now),
            "project": holder.project,
            "canonical_id": holder.canonical_id,
            "owner": holder.owner,
            "node_id": holder.node_id,
            "epoch": holder.epoch,
            "expires_at": to_ms(now) + ttl_sec * 1000,
            "nonce": nonce,
        }
    ).encode()
    try:
        await (store.put_if(key, mine, tag=tag) if conditions else store.put(key, mine))
    except BlobChanged:
        raise _locked("another node", ttl_sec * 1000) from None
    if await store.get(key) != mine:  # where there are no conditional writes, the last of two writers has it
        raise _locked("another node", ttl_sec * 1000)


def _locked(hostname: str, left_ms: int) -> Locked:
    return Locked(
        f"a push from {hostname} is under way; try again (its lock ends in {left_ms // 1000} s at the latest)"
    )
