"""`active.lock`: who holds it, how long, and who may take it."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from bloom.blobs.interface import BlobStore
from bloom.blobs.local import MemoryBlobs
from bloom.sync.errors import Locked
from bloom.sync.project_lock import Holder, project_lock, read_lock

pytestmark = pytest.mark.anyio

KEY = "projects/0123456789abcdef/locks/active.lock"
A = Holder("owner-a", "a", "host-a", "demo", "0123456789abcdef", 2)
B = replace(A, owner="owner-b", node_id="b", hostname="host-b")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=[True, False])
def conditions(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def lock(store: BlobStore, holder: Holder, conditions: bool = True) -> Any:
    return project_lock(store, KEY, holder, ttl_sec=100, grace_sec=10, conditions=conditions)


async def left(store: BlobStore, **fields: Any) -> None:
    """A lock that somebody left."""
    await store.put(KEY, json.dumps(fields).encode())


async def test_it_has_the_contracts_fields_and_goes_with_its_holder(conditions: bool) -> None:
    store = MemoryBlobs()
    async with lock(store, A, conditions):
        told = json.loads(await store.get(KEY))
        assert told.items() >= {"hostname": "host-a", "project": "demo", "canonical_id": "0123456789abcdef"}.items()
        assert told["timestamp"] == pytest.approx(time.time() * 1000, abs=5000)
        assert told["expires_at"] == pytest.approx(time.time() * 1000 + 100_000, abs=5000)
    assert not await store.exists(KEY)


async def test_it_is_released_when_the_work_fails(conditions: bool) -> None:
    store = MemoryBlobs()
    with pytest.raises(ZeroDivisionError):
        async with lock(store, A, conditions):
            raise ZeroDivisionError
    assert not await store.exists(KEY)


async def test_nobody_else_gets_it_meanwhile(conditions: bool) -> None:
    store = MemoryBlobs()
    async with lock(store, A, conditions):
        with pytest.raises(Locked, match="host-a"):
            async with lock(store, B, conditions):
                pass
        assert json.loads(await store.get(KEY))["owner"] == "owner-a"


async def test_its_own_database_takes_it_again_after_a_kill(conditions: bool) -> None:
    store = MemoryBlobs()
    await left(store, hostname="host-a", owner="owner-a", epoch=2, expires_at=int(time.time() * 1000) + 90_000)
    async with lock(store, A, conditions):
        assert "nonce" in json.loads(await store.get(KEY))


async def test_a_copy_of_the_state_on_another_machine_is_not_its_owner() -> None:
    store = MemoryBlobs()
    await left(store, hostname="host-a", owner="owner-a", epoch=2, expires_at=int(time.time() * 1000) + 90_000)
    with pytest.raises(Locked):
        async with lock(store, replace(A, hostname="host-c")):
            pass


async def test_a_leader_of_a_later_epoch_does_not_wait() -> None:
    store = MemoryBlobs()
    await left(store, hostname="host-a", owner="owner-a", epoch=2, expires_at=int(time.time() * 1000) + 90_000)
    async with lock(store, replace(B, epoch=3)):
        pass


@pytest.mark.parametrize(("ended_sec_ago", "is_free"), [(-1, False), (9, False), (11, True)])
async def test_it_ends_with_its_time_and_the_grace(ended_sec_ago: int, is_free: bool) -> None:
    store = MemoryBlobs()
    await left(store, hostname="host-a", owner="x", epoch=2, expires_at=int((time.time() - ended_sec_ago) * 1000))
    assert await takes(store) == is_free


@pytest.mark.parametrize("form", ["iso", "seconds", "milliseconds"])
@pytest.mark.parametrize(("age_sec", "is_free"), [(50, False), (109, False), (111, True)])
async def test_a_plain_clients_lock_ends_by_its_timestamp(form: str, age_sec: int, is_free: bool) -> None:
    store, moment = MemoryBlobs(), time.time() - age_sec
    iso = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment + 0.999))
    await left(store, hostname="old", timestamp={"iso": iso, "seconds": moment, "milliseconds": moment * 1000}[form])
    assert await takes(store) == is_free


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"hostname": "x"}', b'{"expires_at": "never"}'])
async def test_a_lock_that_cannot_be_understood_blocks_nobody(content: bytes) -> None:
    store = MemoryBlobs()
    await store.put(KEY, content)
    assert await takes(store)


async def test_who_slept_beyond_its_end_does_not_release_anothers() -> None:
    store = MemoryBlobs()
    async with lock(store, A):
        mine = json.loads(await store.get(KEY))
        await left(store, **mine | {"expires_at": 0})
        taken = lock(store, B)
        await taken.__aenter__()
    assert read_lock(await store.get(KEY), 100).owner == "owner-b"
    await taken.__aexit__(None, None, None)
    assert not await store.exists(KEY)


async def takes(store: BlobStore) -> bool:
    try:
        async with lock(store, B):
            return True
    except Locked:
        return False
