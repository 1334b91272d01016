"""What every store does alike: S3, a directory, memory."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from blob_servers import S3Server, blobs_at, pieces

from bloom.base.errors import InvalidInput
from bloom.blobs.errors import BlobError, BlobMissing
from bloom.blobs.interface import BlobStore, check_key
from bloom.blobs.local import DirectoryBlobs, MemoryBlobs

pytestmark = pytest.mark.anyio

KEY = "artifacts/0198-task/output"


@pytest.fixture(params=["minio", "file", "memory"])
def store(request: pytest.FixtureRequest, s3_server: S3Server, tmp_path: Path) -> BlobStore:
    stores: dict[str, BlobStore] = {
        "minio": blobs_at(s3_server.endpoint),
        "file": DirectoryBlobs(tmp_path / "made" / "blobs"),
        "memory": MemoryBlobs(),
    }
    return stores[str(request.param)]


@pytest.mark.parametrize("data", [b"", b"x", b"\0\xff" * 5000])
async def test_what_is_put_is_got(store: BlobStore, data: bytes) -> None:
    await store.put(KEY, data, content_type="text/plain")
    assert await store.get(KEY) == data
    assert await store.size(KEY) == len(data)
    assert await store.exists(KEY)


@pytest.mark.parametrize("count", [0, 1, 12])
async def test_a_stream_goes_in_and_comes_out_in_chunks(store: BlobStore, count: int) -> None:
    await store.put(KEY, pieces(count))
    expected = b"".join([piece async for piece in pieces(count)])
    chunks = [chunk async for chunk in store.stream(KEY, chunk_bytes=100_000)]
    assert b"".join(chunks) == expected
    assert all(len(chunk) >= 100_000 for chunk in chunks[:-1])


async def test_a_large_body_is_stored_whole(store: BlobStore) -> None:
    data = b"".join([piece async for piece in pieces(13)])
    await store.put(KEY, data)
    assert await store.get(KEY) == data


async def test_put_replaces_and_delete_removes_once_and_again(store: BlobStore) -> None:
    await store.put(KEY, b"first")
    await store.put(KEY, b"second")
    assert await store.get(KEY) == b"second"
    await store.delete(KEY)
    await store.delete(KEY)
    assert not await store.exists(KEY)


async def test_a_missing_object_is_missing(store: BlobStore) -> None:
    await store.check()
    assert not await store.exists(KEY)
    with pytest.raises(BlobMissing):
        await store.get(KEY)
    with pytest.raises(BlobMissing):
        await store.size(KEY)
    with pytest.raises(BlobMissing):
        await anext(store.stream(KEY))


async def test_a_store_that_was_never_written_to_has_no_objects(store: BlobStore) -> None:
    assert not await store.exists(KEY)
    await store.delete(KEY)


@pytest.mark.parametrize("broken_after", [0, 2, 8])
async def test_a_source_that_fails_leaves_nothing_and_its_error_is_raised(store: BlobStore, broken_after: int) -> None:
    closed: list[bool] = []

    async def broken() -> AsyncGenerator[bytes]:
        try:
            async for piece in pieces(broken_after):
                yield piece
            raise FileNotFoundError("of the source")
        finally:
            closed.append(True)

    with pytest.raises(FileNotFoundError, match="of the source"):
        await store.put(KEY, broken())
    assert not await store.exists(KEY)
    assert closed == [True]


@pytest.mark.parametrize("key", ["a b/ü+c%20.txt", "a", "a/" * 100 + "b", "a:b@c=d&e,f;g~h!i$j'(k)*l?m[n]"])
async def test_unusual_keys_name_their_object(store: BlobStore, key: str) -> None:
    check_key(key)
    await store.put(key, key.encode())
    assert await store.get(key) == key.encode()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/..",
        "./a",
        "a//b",
        "a/",
        "a\0b",
        "a\nb",
        "a\\b",
        "a#1",
        "\ud800",
        "x" * 1025,
    ],
)
async def test_a_key_that_is_none_is_refused_by_each_operation(store: BlobStore, key: str) -> None:
    with pytest.raises(InvalidInput):
        await store.put(key, b"x")
    with pytest.raises(InvalidInput):
        await store.get(key)
    with pytest.raises(InvalidInput):
        store.stream(key)
    with pytest.raises(InvalidInput):
        await store.delete(key)
    with pytest.raises(InvalidInput):
        await store.exists(key)
    with pytest.raises(InvalidInput):
        store.url(key)


async def test_only_s3_gives_links(tmp_path: Path) -> None:
    for store in (DirectoryBlobs(tmp_path), MemoryBlobs()):
        with pytest.raises(BlobError) as caught:
            await store.presign_get(KEY, expires_sec=60)
        assert caught.value.code == "presign_unsupported"


def test_an_url_names_the_object_and_no_path(tmp_path: Path) -> None:
    assert blobs_at("http://127.0.0.1:1", "bloom-artifacts").url(KEY) == f"minio://bloom-artifacts/{KEY}"
    assert DirectoryBlobs(tmp_path).url(KEY) == f"file://blobs/{KEY}"
    assert MemoryBlobs().url(KEY) == f"memory://blobs/{KEY}"


async def test_a_directory_is_for_its_user_alone(tmp_path: Path) -> None:
    store = DirectoryBlobs(tmp_path / "blobs")
    await store.put(KEY, b"x")
    assert (tmp_path / "blobs").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "blobs" / KEY).read_bytes() == b"x"
