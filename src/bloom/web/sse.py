"""Server-Sent Events (html.spec.whatwg.org, section 9.2): framing, keep-alive, and a prompt end."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from bloom.web.disconnect import end_tasks, until_over

KEEPALIVE_SEC = 15.0
RETRY_MS = 2000
_LONGEST_ID = 256
_LINE_END = re.compile("\r\n|\r|\n")
_KEEPALIVE = b": keep-alive\n\n"
_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event. `data` is sent as JSON, unless there is `text`, which is sent as it is (a piece of a page).

    `id` is what the client gives back as `Last-Event-ID`; `event` is the type it listens for.
    """

    data: Any = None
    id: str | None = None
    event: str | None = None
    text: str | None = None

    def encode(self) -> bytes:
        """The event as it goes over the wire. Raises ValueError for an id or a type of more than one line."""
        fields: list[str] = []
        for name, value in (("id", self.id), ("event", self.event)):
            if value is not None:
                if any(character in value for character in "\r\n\0"):
                    raise ValueError(f"the {name} of an event is one line without NUL")
                fields.append(f"{name}: {value}\n")
        text = self.text
        if text is None:
            text = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        fields.extend(f"data: {line}\n" for line in _LINE_END.split(text))
        fields.append("\n")
        return "".join(fields).encode("utf-8", "replace")


def last_event_id(request: Request) -> str | None:
    """Where the client wants to go on: its `Last-Event-ID`, or None if it sent none or one that is not of ours."""
    value = request.headers.get("last-event-id", "")
    return value if 0 < len(value) <= _LONGEST_ID and value.isascii() and value.isprintable() else None


class _EventStream(StreamingResponse):
    def __init__(self, source: AsyncIterator[SseEvent], keepalive_sec: float) -> None:
        super().__init__(iter(()), media_type="text/event-stream", headers=_HEADERS)
        self._source = source
        self._keepalive_sec = keepalive_sec

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = asyncio.ensure_future(until_over(scope, receive))
        upcoming: asyncio.Future[SseEvent] | None = None

        async def write(chunk: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": chunk, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await write(b"retry: %d\n\n" % RETRY_MS)
            while not ended.done():
                # anext is never cancelled by the keep-alive, only by the end: that would close a generator.
                upcoming = upcoming or asyncio.ensure_future(anext(self._source))
                await asyncio.wait((upcoming, ended), timeout=self._keepalive_sec, return_when=asyncio.FIRST_COMPLETED)
                if upcoming.done():
                    try:
                        event = upcoming.result()
                    except StopAsyncIteration:
                        break
                    upcoming = None
                    await write(event.encode())
                elif not ended.done():
                    await write(_KEEPALIVE)
            await write(b"", more=False)
        finally:
            await end_tasks(ended, *(() if upcoming is None else (upcoming,)))
            if (close := getattr(self._source, "aclose", None)) is not None:
                await close()


def event_stream(source: AsyncIterator[SseEvent], *, keepalive_sec: float = KEEPALIVE_SEC) -> StreamingResponse:
    """An answer that sends the events of `source` until it ends, the client leaves, the server stops or the key is revoked.

    `source` is then closed (`aclose`, where it has one). While nothing happens a comment is sent every `keepalive_sec`
    seconds, so that proxies keep the connection. An error of `source` cuts the connection: the client comes back with
    its `Last-Event-ID`.
    """
    return _EventStream(source, keepalive_sec)
