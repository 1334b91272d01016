"""The client over real sockets: streams, cuts, silence, and proxies of the environment."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from tests.stubs.raw_server import raw_server

from bloom.client import RuntimeClient, RuntimeUnreachable, SseMessage

T = TypeVar("T")
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


class RawServer:
    """Answers each connection with the next list of byte pieces, each in a write of its own, and closes it.

    At b"..." it falls silent instead.
    """

    def __init__(self, *answers: list[bytes]) -> None:
        self.requests: list[str] = []
        self._answers = list(answers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        for piece in self._answers.pop(0):
            if piece == b"...":
                await asyncio.Event().wait()
            writer.write(piece)
            await writer.drain()


def with_server(server_of: Callable[[], RawServer], use: Callable[[RawServer, RuntimeClient], Awaitable[T]]) -> T:
    async def run() -> T:
        server = server_of()
        async with raw_server(server.serve) as url, RuntimeClient(url, "k", timeout_sec=5) as client:
            return await use(server, client)

    return asyncio.run(run())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_stream_yields_messages_until_the_runtime_ends_it() -> None:
    async def use(server: RawServer, client: RuntimeClient) -> list[SseMessage]:
        messages = [message async for message in client.stream("/llm-tasks/t/stream", last_event_id="41")]
        assert "last-event-id: 41" in server.requests[0].lower()
        assert "get /api/runtime/llm-tasks/t/stream " in server.requests[0].lower()
        return messages

    pieces = [SSE, chunk(b"retry: 2000\n\nid: 42\nevent: r"), chunk(b'un\ndata: {"a"'), chunk(b":1}\n\n: hi\n\n")]
    messages = with_server(lambda: RawServer([*pieces, chunk(b"event: end\ndata: null\n\n"), b"0\r\n\r\n"]), use)
    assert messages == [SseMessage("42", "run", {"a": 1}), SseMessage("42", "end", None)]


def test_a_cut_stream_is_an_error_after_what_had_come() -> None:
    async def use(server: RawServer, client: RuntimeClient) -> list[SseMessage]:
        got: list[SseMessage] = []
        with pytest.raises(RuntimeUnreachable, match="broke off"):
            async for message in client.stream("/s"):
                got.append(message)  # noqa: PERF401 (what came before the cut counts)
        return got

    assert len(with_server(lambda: RawServer([SSE, chunk(b"data: 1\n\n")]), use)) == 1


def test_silence_on_a_stream_is_an_error() -> None:
    async def use(server: RawServer, client: RuntimeClient) -> None:
        with pytest.raises(RuntimeUnreachable, match="did not answer"):
            async for _ in client.stream("/s", read_timeout_sec=0.05):
                pass

    with_server(lambda: RawServer([SSE, b"..."]), use)


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"],
        [SSE, chunk(b"data: not json\n\n"), b"0\r\n\r\n"],
    ],
)
def test_a_stream_of_another_server_is_known_as_such(answer: list[bytes]) -> None:
    async def use(server: RawServer, client: RuntimeClient) -> None:
        with pytest.raises(RuntimeUnreachable) as caught:
            async for _ in client.stream("/s"):
                pass
        assert caught.value.code == "not_a_runtime"

    with_server(lambda: RawServer(answer), use)


def test_a_server_that_speaks_no_http_is_an_error_of_ours() -> None:
    async def use(server: RawServer, client: RuntimeClient) -> None:
        with pytest.raises(RuntimeUnreachable):
            await client.request("GET", "/workers")

    with_server(lambda: RawServer([b"SSH-2.0-OpenSSH_9.6\r\n"]), use)


def test_a_download_comes_in_pieces_and_a_short_one_is_an_error() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\n"

    async def use(server: RawServer, client: RuntimeClient) -> bytes:
        whole = b"".join([piece async for piece in client.download("/artifacts/a/content")])
        with pytest.raises(RuntimeUnreachable, match="broke off"):
            async for _ in client.download("/artifacts/a/content"):
                pass
        return whole

    assert with_server(lambda: RawServer([head, b"abc", b"def"], [head, b"abc"]), use) == b"abcdef"


def test_a_get_is_sent_again_when_a_kept_connection_ends_as_it_is_used() -> None:
    body = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"

    async def use(server: RawServer, client: RuntimeClient) -> int:
        assert await client.request("GET", "/workers") == []
        with pytest.raises(RuntimeUnreachable) as caught:
            await client.request("POST", "/llm-tasks", json={})
        assert caught.value.maybe_received
        return len(server.requests)

    assert with_server(lambda: RawServer([], [body], []), use) == 3


def test_nothing_listening_is_said_plainly() -> None:
    async def run() -> None:
        listener = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        listener.close()
        await listener.wait_closed()
        async with RuntimeClient(f"http://127.0.0.1:{port}") as client:
            with pytest.raises(RuntimeUnreachable, match=rf"127\.0\.0\.1:{port}: connection refused") as caught:
                await client.request("GET", "/workers")
            assert not caught.value.maybe_received

    asyncio.run(run())


def test_this_machine_is_never_reached_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    body = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]"

    async def use(server: RawServer, client: RuntimeClient) -> None:
        assert await client.request("GET", "/workers") == []

    with_server(lambda: RawServer([body]), use)
