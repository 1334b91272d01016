"""An S3 store that has no bucket yet, is down, hangs, refuses or comes back."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from blob_servers import SECRET, S3Server, answering, blobs_at, free_port, pieces
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from tests.stubs.raw_server import raw_server

from bloom.base.errors import ConfigurationError
from bloom.blobs.errors import BlobUnavailable
from bloom.blobs.interface import BlobStore
from bloom.blobs.s3 import S3Blobs

pytestmark = pytest.mark.anyio

KEY = "artifacts/0198-task/output"


async def fails_as_unavailable(store: BlobStore) -> None:
    """Each operation says so, and says no more."""
    calls = [
        store.put(KEY, b"x"),
        store.put(KEY, pieces(7)),
        store.get(KEY),
        store.size(KEY),
        store.exists(KEY),
        store.delete(KEY),
        store.check(),
        anext(aiter(store.stream(KEY))),
    ]
    for call in calls:
        with pytest.raises(BlobUnavailable) as caught:
            await call
        assert caught.value.code == "blob_unavailable"
        assert SECRET not in caught.value.message
        assert "127.0.0.1" not in caught.value.message


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
async def test_the_bucket_is_made_at_the_first_write(s3_server: S3Server, region: str) -> None:
    bucket = f"made-at-first-write-{region}"
    store = blobs_at(s3_server.endpoint, bucket, region=region)
    assert await s3_server.status("HEAD", f"/{bucket}") == 404
    await store.put(KEY, b"x")
    assert await s3_server.status("HEAD", f"/{bucket}") == 200


async def test_the_bucket_is_made_by_a_streamed_write_too_and_nothing_is_lost(s3_server: S3Server) -> None:
    store = blobs_at(s3_server.endpoint)
    await store.put(KEY, pieces(12))
    assert await store.size(KEY) == 12_000_000


async def test_a_bucket_that_vanishes_is_made_again(s3_server: S3Server) -> None:
    store = blobs_at(s3_server.endpoint, "vanishing")
    await store.put(KEY, b"x")
    await store.delete(KEY)
    assert await s3_server.status("DELETE", "/vanishing") == 204
    await store.put(KEY, b"y")
    assert await store.get(KEY) == b"y"


async def test_many_first_writes_at_once_all_arrive(s3_server: S3Server) -> None:
    stores = [blobs_at(s3_server.endpoint, "first-writes") for _ in range(3)]
    await asyncio.gather(*(store.put(f"k/{number}", b"x") for number, store in enumerate(stores * 4)))
    assert [await stores[0].exists(f"k/{number}") for number in range(12)] == [True] * 12


async def test_the_content_type_is_kept(s3_server: S3Server) -> None:
    store = blobs_at(s3_server.endpoint, "typed")
    await store.put(KEY, b"x", content_type="text/markdown")
    await store.put(KEY + "2", pieces(7), content_type="text/markdown")
    async with httpx.AsyncClient() as client:
        for key in (KEY, KEY + "2"):
            answer = await client.get(await store.presign_get(key, expires_sec=60))
            assert answer.headers["content-type"].startswith("text/markdown")


async def test_a_presigned_link_carries_the_signature_that_aws_computes(s3_server: S3Server) -> None:
    link = await blobs_at(s3_server.endpoint, "signed").presign_get(KEY, expires_sec=3600)
    parts = urlsplit(link)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert query["X-Amz-Expires"] == "3600"
    assert signature_of("GET", f"{parts.scheme}://{parts.netloc}{parts.path}", query) == query["X-Amz-Signature"]


async def test_the_requests_for_the_bucket_are_signed_as_aws_signs_them() -> None:
    seen: list[tuple[str, str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            method, target, _ = line.decode().split(" ")
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(field[15:]) for field in head.split(b"\r\n") if field[:15].lower() == b"content-length:"), 0
            )
            await reader.readexactly(length)
            seen.append((method, target))
            status = b"200 OK" if len(seen) >= 3 else b"404 Not Found"
            writer.write(b'HTTP/1.1 %b\r\nContent-Length: 0\r\nETag: "e"\r\n\r\n' % status)

    async with raw_server(serve) as origin:
        await blobs_at(origin, "signed").put(KEY, b"x")
    assert [method for method, _ in seen] == ["PUT", "HEAD", "PUT", "PUT"]
    for method, target in seen[1:3]:
        parts = urlsplit(target)
        assert parts.path == "/signed/"
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert signature_of(method, f"{origin}{parts.path}", query) == query["X-Amz-Signature"]


def signature_of(method: str, url: str, query: dict[str, str]) -> str:
    """What botocore, the reference implementation, signs for the same request at the same second."""
    auth: Any = S3SigV4QueryAuth(Credentials("AKTEST", SECRET), "s3", "us-east-1", expires=int(query["X-Amz-Expires"]))
    request: Any = AWSRequest(method, url, params={name: query[name] for name in query if name != "X-Amz-Signature"})
    request.context["timestamp"] = query["X-Amz-Date"]
    request.headers["host"] = urlsplit(url).netloc
    scope = auth.credential_scope(request)
    assert query["X-Amz-Credential"] == f"AKTEST/{scope}"
    return str(auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))


@pytest.mark.parametrize("seconds", [0, -1, 604_801])
async def test_a_link_lives_a_second_to_a_week(seconds: int) -> None:
    with pytest.raises(ValueError, match="604800"):
        await blobs_at("http://127.0.0.1:1").presign_get(KEY, expires_sec=seconds)


async def test_the_variables_of_the_aws_tools_change_nothing(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_SESSION_TOKEN": "token",
        "AWS_ACCESS_KEY_ID": "other",
        "AWS_REGION": "eu-west-3",
        "AWS_BUCKET": "other",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    }.items():
        monkeypatch.setenv(name, value)
    store = blobs_at(s3_server.endpoint, "own-settings")
    await store.put(KEY, b"x")
    link = await store.presign_get(KEY, expires_sec=60)
    assert link.startswith(f"{s3_server.endpoint}/own-settings/{KEY}?")
    assert "Security-Token" not in link
    assert "Credential=AKTEST" in link


async def test_a_store_that_is_down_is_unavailable() -> None:
    await fails_as_unavailable(blobs_at(f"http://127.0.0.1:{free_port()}", patient=False))


async def test_a_store_that_never_answers_is_unavailable() -> None:
    async with answering(b"") as endpoint:
        await fails_as_unavailable(blobs_at(endpoint, patient=False))


@pytest.mark.parametrize("status", [b"403 Forbidden", b"401 Unauthorized", b"500 Internal Server Error", b"302 Found"])
async def test_a_store_that_refuses_or_fails_is_unavailable(status: bytes) -> None:
    async with answering(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n") as endpoint:
        await fails_as_unavailable(blobs_at(endpoint, patient=False))


async def test_a_transfer_that_falls_silent_ends() -> None:
    begun = b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\nETag: "e"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n'
    async with answering(begun + b"x" * 300_000) as endpoint:
        store = blobs_at(endpoint, patient=False)
        with pytest.raises(BlobUnavailable):
            await store.get(KEY)
        with pytest.raises(BlobUnavailable):
            async for _ in store.stream(KEY, chunk_bytes=1000):
                pass


async def test_a_store_that_comes_back_is_used_again() -> None:
    port = free_port()
    store = blobs_at(f"http://127.0.0.1:{port}")
    with pytest.raises(BlobUnavailable):
        await store.put(KEY, b"x")
    server = S3Server(port)
    server.start()
    try:
        await store.check()
        await store.put(KEY, b"y")
        assert await store.get(KEY) == b"y"
    finally:
        server.stop()


async def test_an_upload_that_is_cancelled_is_taken_back(s3_server: S3Server) -> None:
    store = blobs_at(s3_server.endpoint, "cancelled-upload")
    await store.check()
    sent, closed = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        try:
            async for piece in pieces(12):
                yield piece
            sent.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    putting = asyncio.ensure_future(store.put(KEY, endless()))
    async with asyncio.timeout(5):
        await sent.wait()
    assert await s3_server.unfinished_uploads("cancelled-upload") == 1
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert closed.is_set()
    assert await s3_server.unfinished_uploads("cancelled-upload") == 0
    assert not await store.exists(KEY)


@pytest.mark.parametrize("bucket", ["", "ab", "Upper", "a_b", "a/b", "-ab", "a..b", "x" * 64])
def test_a_name_that_no_bucket_can_have_is_refused(bucket: str) -> None:
    with pytest.raises(ConfigurationError):
        S3Blobs("http://127.0.0.1:1", bucket, access_key="a", secret_key="b")
