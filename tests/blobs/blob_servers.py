"""Servers that an object store may turn out to be."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import httpx
from moto.server import ThreadedMotoServer
from tests.stubs.raw_server import raw_server

from bloom.blobs.s3 import Patience, S3Blobs

SECRET = "the-secret-key"
IMPATIENT = Patience(connect_sec=1, silence_sec=0.3, retries=1, retry_within_sec=0.1)

_numbers = itertools.count(1)


def blobs_at(endpoint: str, bucket: str | None = None, *, region: str = "us-east-1", patient: bool = True) -> S3Blobs:
    """A store at `endpoint`, in a bucket of its own that does not exist yet unless one is named."""
    return S3Blobs(
        endpoint,
        bucket or f"test-bucket-{next(_numbers)}",
        access_key="AKTEST",
        secret_key=SECRET,
        region=region,
        patience=Patience() if patient else IMPATIENT,
    )


def free_port() -> int:
    """A port of loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class S3Server:
    """moto's S3, in a thread."""

    def __init__(self, port: int = 0) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        self.endpoint = ""

    def start(self) -> None:
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"

    def stop(self) -> None:
        self._server.stop()

    async def status(self, method: str, path: str) -> int:
        async with httpx.AsyncClient(base_url=self.endpoint) as client:
            return (await client.request(method, path)).status_code

    async def unfinished_uploads(self, bucket: str) -> int:
        async with httpx.AsyncClient(base_url=self.endpoint) as client:
            return (await client.get(f"/{bucket}?uploads")).text.count("<UploadId>")


def answering(answer: bytes) -> AbstractAsyncContextManager[str]:
    """A server that sends `answer` to each request and then says nothing more; its endpoint."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()

    return raw_server(serve)


async def pieces(count: int, size: int = 1_000_000) -> AsyncIterator[bytes]:
    """`count` chunks of `size` bytes, each of its own letter."""
    for number in range(count):
        yield bytes([65 + number % 26]) * size
