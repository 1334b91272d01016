"""Ends connections that are slow, silent, or beyond a number.

uvicorn bounds how long a connection may be idle after a request, and nothing else. Its HTTP protocol is extended here by what a
server that strangers reach needs, whether or not a proxy stands before it:

- a header comes within a time, and is no longer than a limit;
- a body, and an answer that its client reads, moves at MIN_BYTES_PER_SEC or faster; what waits for us is not held against it;
- there is a number of connections, in all and from one address. At that number the ones that were idle longest make room, so
  that whoever opens thousands and says nothing keeps nobody out.

Timers run only while a client is waited for, so a request that comes in one piece needs none.
"""

import asyncio
import json
import logging
import resource
import time
from collections import Counter
from enum import Enum, auto
from functools import lru_cache
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from bloom.base.settings import ServerSettings
from bloom.web.proxies import client_key, parse_address, parse_trusted_proxies

MIN_BYTES_PER_SEC = 256
MOST_HEADERS = 128
RESERVED_DESCRIPTORS = 128
"""For the database, outgoing calls, logs and the listening socket."""

_TOLD_EVERY_SEC = 10.0
_ROOM = 32
_log = logging.getLogger(__name__)


class _Awaited(Enum):
    """What a client owes the server."""

    NOTHING = auto()
    HEADER = auto()
    BODY = auto()


class ConnectionLimits:
    """The limits of this process, and how many connections each address has. Raises ConfigurationError for bad proxies.

    As many descriptors are allowed as the system lets this process have; where those are fewer than `BLOOM_MAX_CONNECTIONS`
    needs, there are fewer connections.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.most = min(settings.max_connections, _allow_descriptors(settings.max_connections))
        self.most_per_address = min(settings.max_connections_per_address or self.most, max(self.most // 2, 1))
        self.header_sec = settings.header_timeout_sec
        self.header_bytes = settings.max_header_bytes
        self.body_sec = settings.body_timeout_sec
        self._by_address: Counter[str] = Counter()
        self._trusted = parse_trusted_proxies(settings.trusted_proxies)
        self._counted_as = lru_cache(maxsize=4096)(self._who)
        self._told_at = -_TOLD_EVERY_SEC

    def add(self, host: str) -> bool:
        """Count a connection from `host`. False: it has too many. Behind a trusted proxy are many clients: it may have all."""
        who = self._counted_as(host)
        self._by_address[who] += 1
        return not who or self._by_address[who] <= self.most_per_address

    def remove(self, host: str) -> None:
        """A connection that was counted is gone."""
        who = self._counted_as(host)
        self._by_address[who] -= 1
        if self._by_address[who] <= 0:
            del self._by_address[who]

    def tell(self, text: str, **fields: object) -> None:
        """Log a warning, unless one was logged a moment ago: who floods the server does not flood its log."""
        if (now := time.monotonic()) - self._told_at >= _TOLD_EVERY_SEC:
            self._told_at = now
            _log.warning(text, extra=fields)

    def _who(self, host: str) -> str:
        address = parse_address(host)
        return "" if address is None or any(address in network for network in self._trusted) else client_key(host)


def _allow_descriptors(connections: int) -> int:
    """Raise the soft limit of open files as far as `connections` need it, and return how many of them it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return connections if soft == resource.RLIM_INFINITY else max(soft - RESERVED_DESCRIPTORS, 8)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol within `limits`, an attribute of the subclass that `guarded_protocol` makes."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited = _Awaited.NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_in_message = False
        self._has_header = False
        self._received = 0
        self._was_held_up = False
        self._idle_since = 0.0
        self._refusal = HTTPStatus.BAD_REQUEST

    # Connections

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        host = self.client[0] if self.client else ""
        if not self.limits.add(host):
            self.limits.tell("too many connections from one address", client=host, connections=len(self.connections))
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "too_many_connections", "Too many connections from this address")
        elif len(self.connections) > self.limits.most and not self._make_room():
            self.limits.tell("no connection is free", connections=len(self.connections))
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "Too many connections; try again in a moment")
        else:
            self._wait_for(_Awaited.HEADER)

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.remove(self.client[0] if self.client else "")
        self._wait_for(_Awaited.NOTHING)
        self._end_write_timer()
        super().connection_lost(exc)

    @property
    def is_idle(self) -> bool:
        """Whether no request of this connection is under way."""
        return not self._has_header and self._answering is None

    @property
    def _answering(self) -> RequestResponseCycle | None:
        """The request whose answer is not complete yet."""
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None until the first one
        return None if cycle is None or cycle.response_complete else cycle

    def _make_room(self) -> bool:
        others = (each for each in self.connections if each is not self)
        idle = [each for each in others if isinstance(each, GuardedProtocol) and each.is_idle]
        idle.sort(key=lambda each: each._idle_since)
        ended = idle[: max(self.limits.most // _ROOM, 1)]
        for each in ended:
            self.connections.discard(each)
            each.transport.abort()
        if ended:
            self.limits.tell("idle connections were closed to make room", closed=len(ended))
        return bool(ended)

    # Requests

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_message:
            self._received += len(data)
            if not self._has_header and self._received > self.limits.header_bytes:
                self._refuse_header()
                return
            awaited = _Awaited.BODY if self._has_header else _Awaited.HEADER
        else:
            # What is neither a message nor follows one that is being answered are empty lines before the next one.
            awaited = _Awaited.HEADER if self._answering is None else _Awaited.NOTHING
        if awaited is not self._awaited:
            self._wait_for(awaited)

    def on_message_begin(self) -> None:
        self._is_in_message, self._has_header, self._received = True, False, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self.limits.header_bytes or len(self.headers) > MOST_HEADERS:
            self._refusal = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise ValueError("the header is too large")  # the parser stops, and send_400_response is called
        self._has_header = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        # From here on it waits for us until the body so far has been taken.
        self._was_held_up = self._was_held_up or self.flow.read_paused

    def on_message_complete(self) -> None:
        self._is_in_message = self._has_header = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read as a request, in the form of all other errors."""
        if self._refusal is HTTPStatus.BAD_REQUEST:
            self._refuse(HTTPStatus.BAD_REQUEST, "invalid", "This is not a valid HTTP request")
        else:
            self._refuse_header()

    def _refuse_header(self) -> None:
        text = f"The header of a request may have {self.limits.header_bytes} bytes and {MOST_HEADERS} fields"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header_too_large", text)

    def _refuse(self, status: HTTPStatus, code: str, text: str) -> None:
        """Answer and close; only close where an answer is under way already."""
        self._wait_for(_Awaited.NOTHING)
        answering = self._answering
        if answering is None or not answering.response_started:
            body = json.dumps({"error": text, "code": code}).encode()
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                "x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        if answering is not None:
            # Whoever serves the request learns that nobody waits for it any more.
            answering.disconnected = True
            answering.message_event.set()
        self.transport.close()

    # Time

    def _wait_for(self, awaited: _Awaited) -> None:
        self._awaited = awaited
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if awaited is _Awaited.HEADER:
            self._timer = self.loop.call_later(self.limits.header_sec, self._header_is_late)
        elif awaited is _Awaited.BODY:
            self._received, self._was_held_up = 0, False
            self._timer = self.loop.call_later(self.limits.body_sec, self._look_at_body)

    def _header_is_late(self) -> None:
        if not self.is_idle:  # it comes behind a request that is being answered
            self._wait_for(_Awaited.HEADER)
        elif self._is_in_message:
            self._refuse(
                HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "The header of the request did not come in time"
            )
        else:
            self.transport.close()

    def _look_at_body(self) -> None:
        is_our_turn = self.flow.read_paused or self._was_held_up or self.cycle.waiting_for_100_continue
        if is_our_turn or self._received >= self.limits.body_sec * MIN_BYTES_PER_SEC:
            self._wait_for(_Awaited.BODY)
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "request_timeout", "The body of the request came too slowly")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_write_timer()
        self._start_write_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._end_write_timer()

    def _start_write_timer(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self.limits.body_sec, self._look_at_reader, left)

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _look_at_reader(self, left_before: int) -> None:
        read = left_before - self.transport.get_write_buffer_size()
        if read < self.limits.body_sec * MIN_BYTES_PER_SEC:
            self.transport.abort()
        else:
            self._start_write_timer()

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, also one whose client never reads what it was answered."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()


def guarded_protocol(limits: ConnectionLimits) -> type[GuardedProtocol]:
    """The protocol for uvicorn's `http` setting, within `limits`."""
    return type("GuardedProtocol", (GuardedProtocol,), {"limits": limits})
