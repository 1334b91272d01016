"""Writes that depend on what is there: S3, a directory, memory."""

import asyncio
from pathlib import Path

import pytest
from blob_servers import S3Server, blobs_at

from bloom.blobs.errors import BlobChanged, BlobMissing
from bloom.blobs.interface import BlobStore
from bloom.blobs.local import DirectoryBlobs, MemoryBlobs
from bloom.blobs.probe import honours_conditions

pytestmark = pytest.mark.anyio

KEY = "projects/demo/current.json"


@pytest.fixture(params=["minio", "file", "memory"])
def store(request: pytest.FixtureRequest, s3_server: S3Server, tmp_path: Path) -> BlobStore:
    stores: dict[str, BlobStore] = {
        "minio": blobs_at(s3_server.endpoint),
        "file": DirectoryBlobs(tmp_path / "blobs"),
        "memory": MemoryBlobs(),
    }
    return stores[str(request.param)]


async def test_an_object_is_created_only_where_there_is_none(store: BlobStore) -> None:
    await store.put_if(KEY, b"first", tag=None)
    with pytest.raises(BlobChanged):
        await store.put_if(KEY, b"second", tag=None)
    assert await store.get(KEY) == b"first"


async def test_an_object_is_replaced_only_in_the_state_that_was_read(store: BlobStore) -> None:
    await store.put(KEY, b"first")
    content, tag = await store.read(KEY)
    await store.put_if(KEY, b"second", tag=tag)
    assert content == b"first"
    with pytest.raises(BlobChanged):
        await store.put_if(KEY, b"third", tag=tag)
    assert await store.get(KEY) == b"second"


async def test_a_missing_object_is_neither_read_nor_replaced(store: BlobStore) -> None:
    await store.put(KEY, b"first")
    _, tag = await store.read(KEY)
    await store.delete(KEY)
    with pytest.raises(BlobMissing):
        await store.read(KEY)
    with pytest.raises(BlobChanged):
        await store.put_if(KEY, b"second", tag=tag)
    assert not await store.exists(KEY)


async def test_a_write_that_finds_itself_already_there_is_done(store: BlobStore) -> None:
    await store.put_if(KEY, b"first", tag=None)
    await store.put_if(KEY, b"first", tag=None)


async def test_of_many_that_replace_one_state_one_does(store: BlobStore) -> None:
    await store.put(KEY, b"first")
    _, tag = await store.read(KEY)
    writes = (store.put_if(KEY, b"by %d" % number, tag=tag) for number in range(8))
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
    assert [await store.get(KEY)] == [b"by %d" % number for number in winners]
    assert sum(isinstance(outcome, BlobChanged) for outcome in outcomes) == 7


async def test_the_probe_believes_those_that_do_it(store: BlobStore) -> None:
    assert await honours_conditions(store)
    assert await store.page("bloom-check", after=None, limit=10) == []


async def test_the_probe_finds_out_a_store_that_takes_every_write() -> None:
    class Careless(MemoryBlobs):
        async def put_if(self, key: str, data: bytes, *, tag: str | None) -> None:
            await self.put(key, data)

    assert not await honours_conditions(Careless())


async def test_the_probe_finds_out_a_store_that_refuses_what_should_hold() -> None:
    class Refusing(MemoryBlobs):
        async def put_if(self, key: str, data: bytes, *, tag: str | None) -> None:
            if tag is not None:
                raise BlobChanged("always")
            await super().put_if(key, data, tag=None)

    assert not await honours_conditions(Refusing())
