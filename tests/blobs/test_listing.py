"""What every store lists alike: S3, a directory, memory."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from blob_servers import S3Server, blobs_at

from bloom.blobs.interface import BlobStore
from bloom.blobs.local import DirectoryBlobs, MemoryBlobs

pytestmark = pytest.mark.anyio

KEYS = ["artifacts/a/1", "artifacts/a/3", "artifacts/b/2", "artifacts/c/1", "artifacts/c/2"]


@pytest.fixture(params=["minio", "file", "memory"])
def store(request: pytest.FixtureRequest, s3_server: S3Server, tmp_path: Path) -> BlobStore:
    stores: dict[str, BlobStore] = {
        "minio": blobs_at(s3_server.endpoint),
        "file": DirectoryBlobs(tmp_path / "blobs"),
        "memory": MemoryBlobs(),
    }
    return stores[str(request.param)]


async def test_an_empty_store_lists_nothing(store: BlobStore) -> None:
    assert await store.page("artifacts", after=None, limit=10) == []


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6])
async def test_pages_walk_the_keys_below_a_prefix_in_order(store: BlobStore, limit: int) -> None:
    for key in [*reversed(KEYS), "artifacts2/x", "other/x"]:
        await store.put(key, b"12345")
    walked: list[str] = []
    after: str | None = None
    while page := await store.page("artifacts", after=after, limit=limit):
        assert len(page) <= limit
        walked += [each.key for each in page]
        after = page[-1].key
    assert walked == KEYS


async def test_an_object_is_listed_with_its_size_and_age(store: BlobStore) -> None:
    await store.put("artifacts/a/1", b"12345")
    (found,) = await store.page("artifacts", after=None, limit=10)
    assert found.size == 5
    assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=1)
