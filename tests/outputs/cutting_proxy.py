"""A proxy before a runtime that cuts connections which upload, as often and where the test says."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_BLOCK_BYTES = 64 * 1024


class CuttingProxy:
    """Passes bytes on, both ways. A connection that begins with a PUT is cut behind the next of `cuts` bytes."""

    def __init__(self, url: str, cuts: list[int]) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 0)
        self.cuts = deque(cuts)
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        there, back = await asyncio.open_connection(*self._address)
        answers = asyncio.create_task(_pass_on(there, writer, None))
        try:
            first = await reader.read(_BLOCK_BYTES)
            cut = self.cuts.popleft() if first.startswith(b"PUT") and self.cuts else None
            back.write(first[:cut])
            await back.drain()
            if cut is None or len(first) < cut:
                await _pass_on(reader, back, None if cut is None else cut - len(first))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            answers.cancel()
            for end in (back, writer):
                end.transport.abort()
            await asyncio.gather(answers, back.wait_closed(), writer.wait_closed(), return_exceptions=True)
            self._connections.discard(connection)

    async def end(self) -> None:
        """Cut everything."""
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None) -> None:
    try:
        while (most is None or most > 0) and (block := await reader.read(_BLOCK_BYTES)):
            writer.write(block if most is None else block[:most])
            await writer.drain()
            most = None if most is None else most - len(block)
    except OSError:
        pass


@asynccontextmanager
async def cutting_proxy(url: str, cuts: list[int]) -> AsyncGenerator[CuttingProxy]:
    """A listening CuttingProxy before the runtime at `url`."""
    proxy = CuttingProxy(url, cuts)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
