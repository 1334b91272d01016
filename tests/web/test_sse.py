"""Streams of Server-Sent Events: their form, and that they end when they should."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.requests import Request
from starlette.responses import Response
from web_serving import KEY, Serving

from bloom.web.disconnect import unless_gone, until_gone
from bloom.web.sse import SseEvent, event_stream, last_event_id

pytestmark = pytest.mark.anyio

SOON = 5


class Source:
    """Events, then silence until it is closed."""

    def __init__(self, *events: SseEvent, then_end: bool = False) -> None:
        self.events = events
        self.then_end = then_end
        self.closed = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[SseEvent]:
        try:
            for event in self.events:
                yield event
            if not self.then_end:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


def streaming(source: Source, *, keepalive_sec: float = 60) -> Serving:
    serving = Serving()

    async def stream() -> Response:
        return event_stream(source(), keepalive_sec=keepalive_sec)

    serving.app.add_api_route("/api/runtime/stream", stream)
    return serving


async def connect(host: str, port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Runtime-API-Key: {KEY}\r\n\r\n".encode())
    return reader, writer


def test_an_event_is_framed_field_by_field() -> None:
    assert SseEvent({"a": "ü\n"}, id="7", event="task").encode().decode() == (
        'id: 7\nevent: task\ndata: {"a":"ü\\n"}\n\n'
    )


def test_text_of_many_lines_is_one_event() -> None:
    assert SseEvent(text="<p>\r\na\rb\n").encode() == b"data: <p>\ndata: a\ndata: b\ndata: \n\n"


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_an_id_of_many_lines_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        SseEvent(id=bad).encode()
    with pytest.raises(ValueError, match="one line"):
        SseEvent(event=bad).encode()


async def test_a_stream_that_ends_is_complete() -> None:
    source = Source(SseEvent(1, id="1"), SseEvent(2, id="2"), then_end=True)
    async with streaming(source).client() as client:
        response = await client.get("/api/runtime/stream")
    assert response.text == "retry: 2000\n\nid: 1\ndata: 1\n\nid: 2\ndata: 2\n\n"
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert source.closed.is_set()


async def test_silence_is_filled_with_comments() -> None:
    source = Source(SseEvent(1))
    async with streaming(source, keepalive_sec=0.01).listening() as (host, port):
        reader, writer = await connect(host, port, "/api/runtime/stream")
        async with asyncio.timeout(SOON):
            seen = await reader.readuntil(b": keep-alive\n\n")
            await reader.readuntil(b": keep-alive\n\n")
        assert b"data: 1\n\n" in seen
        writer.close()
        async with asyncio.timeout(SOON):
            await source.closed.wait()


async def test_the_source_is_closed_when_the_client_leaves() -> None:
    source = Source(SseEvent(1))
    async with streaming(source).listening() as (host, port):
        reader, writer = await connect(host, port, "/api/runtime/stream")
        async with asyncio.timeout(SOON):
            await reader.readuntil(b"data: 1\n\n")
            writer.close()
            await source.closed.wait()


async def test_a_stream_ends_whole_when_the_server_stops() -> None:
    source = Source(SseEvent(1))
    serving = streaming(source)
    async with serving.listening() as (host, port):
        reader, writer = await connect(host, port, "/api/runtime/stream")
        async with asyncio.timeout(SOON):
            await reader.readuntil(b"data: 1\n\n")
            serving.stopping.begin()
            rest = await reader.readuntil(b"0\r\n\r\n")
            await source.closed.wait()
        assert rest.endswith(b"0\r\n\r\n")
        writer.close()


async def test_an_error_of_the_source_cuts_the_connection() -> None:
    async def failing() -> AsyncGenerator[SseEvent]:
        yield SseEvent(1)
        raise RuntimeError("source broke")

    serving = Serving()

    async def stream() -> Response:
        return event_stream(failing())

    serving.app.add_api_route("/api/runtime/stream", stream)
    async with serving.listening() as (host, port):
        reader, writer = await connect(host, port, "/api/runtime/stream")
        async with asyncio.timeout(SOON):
            everything = await reader.read()
        assert b"data: 1\n\n" in everything
        assert not everything.endswith(b"0\r\n\r\n")
        writer.close()


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ("", None), ("17-3", "17-3"), ("x" * 257, None), ("\u00e9", None)]
)
def test_only_a_sane_last_event_id_counts(value: str | None, expected: str | None) -> None:
    headers = [] if value is None else [(b"last-event-id", value.encode())]
    assert last_event_id(Request({"type": "http", "headers": headers})) == expected


async def test_a_long_poll_ends_when_its_client_leaves() -> None:
    serving = Serving()
    waiting, left = asyncio.Event(), asyncio.Event()

    async def poll(request: Request) -> None:
        waiting.set()
        await until_gone(request)
        left.set()

    serving.app.add_api_route("/api/runtime/poll", poll, methods=["GET"])
    async with serving.listening() as (host, port):
        _, writer = await connect(host, port, "/api/runtime/poll")
        async with asyncio.timeout(SOON):
            await waiting.wait()
            writer.close()
            await left.wait()


async def test_a_long_poll_answers_when_the_server_stops() -> None:
    serving = Serving()
    waiting = asyncio.Event()
    ended: list[str] = []

    async def work() -> str:
        try:
            waiting.set()
            return str(await asyncio.Event().wait())
        finally:
            ended.append("work")

    async def poll(request: Request) -> dict[str, str | None]:
        return {"outcome": await unless_gone(request, work())}

    serving.app.add_api_route("/api/runtime/poll", poll, methods=["GET"])
    async with serving.listening() as (host, port):
        reader, writer = await connect(host, port, "/api/runtime/poll")
        async with asyncio.timeout(SOON):
            await waiting.wait()
            serving.stopping.begin()
            await reader.readuntil(b'{"outcome":null}')
        assert ended == ["work"]
        writer.close()


async def test_work_that_is_done_first_gives_its_outcome() -> None:
    serving = Serving()

    async def work() -> str:
        return "done"

    async def poll(request: Request) -> dict[str, str | None]:
        return {"outcome": await unless_gone(request, work())}

    serving.app.add_api_route("/api/runtime/poll", poll, methods=["GET"])
    async with serving.client() as client:
        assert (await client.get("/api/runtime/poll")).json() == {"outcome": "done"}
