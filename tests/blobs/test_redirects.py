"""A store that redirects does not have its keys carried elsewhere."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import pytest
from blob_servers import SECRET, blobs_at
from tests.stubs.raw_server import raw_server

from bloom.base.errors import BloomError

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def redirecting(status: int) -> AsyncGenerator[tuple[str, list[bytes]]]:
    """A server that sends everybody to another one, and what that one got to hear."""
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}")

    async with raw_server(listen) as elsewhere:

        async def redirect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(
                f"HTTP/1.1 {status} Elsewhere\r\nLocation: {elsewhere}/x\r\nContent-Length: 0\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            await writer.drain()
            writer.close()

        async with raw_server(redirect) as url:
            yield url, heard


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_the_keys_of_the_object_store_sign_nothing_for_another_host(status: int) -> None:
    async with redirecting(status) as (url, heard):
        store = blobs_at(url, "bucket", patient=False)
        for work in (store.get, store.delete):
            with suppress(BloomError):
                await work("key")
        with suppress(BloomError):
            await store.put("key", b"data")
    said = b"".join(heard).lower()
    assert b"authorization" not in said and b"signature" not in said and SECRET.encode() not in said
