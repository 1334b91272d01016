"""An HTTP/1.1 client that costs next to nothing: one kept connection, requests as ready bytes, answers with a length."""

import asyncio
import json
from typing import Any, cast


class Refused(Exception):
    """The server answered something else than was expected."""


class Connection(asyncio.Protocol):
    """One request at a time on one connection."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.head = f"Host: 127.0.0.1:{port}\r\nX-Runtime-API-Key: {key}\r\n".encode()
        self._received = bytearray()
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int, key: str) -> "Connection":
        """Connect to a port of this machine."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: cls(port, key), "127.0.0.1", port)
        return connection

    def close(self) -> None:
        """Close it; a request under way is abandoned."""
        if self._transport is not None:
            self._transport.abort()

    async def post(self, path: str, body: bytes, *expected: int) -> bytes:
        """The body of the answer to a JSON `body`. Raises Refused for any status but those `expected`."""
        kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        return await self._send(
            b"POST /api/runtime" + path.encode() + b" HTTP/1.1\r\n" + self.head + kind + body, *expected
        )

    async def register(self, name: str, slots: int) -> None:
        """Make a worker of this name known, or known again."""
        await self.post("/workers", as_json({"name": name, "capabilities": {"max_concurrency": slots}}), 200, 201)

    async def get(self, path: str) -> bytes:
        """The body of the answer. Raises Refused for any status but 200."""
        return await self._send(b"GET /api/runtime" + path.encode() + b" HTTP/1.1\r\n" + self.head + b"\r\n", 200)

    async def _send(self, request: bytes, *expected: int) -> bytes:
        assert self._transport is not None and self._waiting is None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        status, body = await self._waiting
        if status not in expected:
            what = request.split(b" HTTP", 1)[0].decode()
            raise Refused(f"{what} was answered {status} instead of {expected}: {body[:500].decode(errors='replace')}")
        return body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no instance of it

    def data_received(self, data: bytes) -> None:
        self._received += data
        end_of_head = self._received.find(b"\r\n\r\n")
        if end_of_head < 0:
            return
        head = bytes(self._received[:end_of_head]).lower()
        length = head.find(b"content-length:")
        if length < 0:
            self._answer(Refused("an answer without a length"))
            return
        line_end = head.find(b"\r\n", length)
        size = int(head[length + 15 : line_end if line_end > 0 else None])
        end = end_of_head + 4 + size
        if len(self._received) >= end:
            body = bytes(self._received[end_of_head + 4 : end])
            del self._received[:end]
            self._answer((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._answer(exc or Refused("the server closed the connection"))

    def _answer(self, answer: tuple[int, bytes] | Exception) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is None or waiting.done():
            return
        if isinstance(answer, Exception):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)


def as_json(value: Any) -> bytes:
    """`value` as a request's body."""
    return json.dumps(value, separators=(",", ":")).encode()
