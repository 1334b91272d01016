"""Names each request and writes its one line in the log."""

import logging
import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom.base.ids import new_request_id
from bloom.base.logging import request_id
from bloom.web.asgi import header, raw_path
from bloom.web.disconnect import Stopping

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_LONGEST_PATH = 512
# What proxies write for a request whose client left before there was an answer.
_CLIENT_CLOSED_REQUEST = 499

ObserveRequest = Callable[[Scope, int, float], None]
"""Told of each request, with the status of its answer and the seconds that it took."""

logger = logging.getLogger("bloom.access")


class RequestContextMiddleware:
    """Takes a sane `X-Request-Id` from the caller or makes one; it is in the answer and in each log line meanwhile.

    Also lets what serves the request find `stopping` (see `bloom.web.disconnect.stopping_of`), and tells `observe` of it.
    """

    def __init__(self, app: ASGIApp, *, stopping: Stopping, observe: ObserveRequest | None = None) -> None:
        self.app = app
        self._stopping = stopping
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        own = given if given is not None and _SANE_ID.fullmatch(given) else new_request_id().encode()
        pair = (b"x-request-id", own)
        status = _CLIENT_CLOSED_REQUEST
        self._stopping.put_into(scope)

        async def named_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Whoever keeps the connection for a next request would send it to a server that is gone by then.
                closes = ((b"connection", b"close"),) if self._stopping.begun else ()
                message["headers"] = [*message.get("headers", ()), pair, *closes]
            await send(message)

        token = request_id.set(own.decode())
        began = time.perf_counter()
        try:
            await self.app(scope, receive, named_send)
        finally:
            seconds = time.perf_counter() - began
            if self._observe is not None:
                self._observe(scope, status, seconds)
            if logger.isEnabledFor(logging.INFO):
                path = raw_path(scope)[:_LONGEST_PATH]
                fields = {"method": scope["method"], "path": path, "status": status, "ms": round(seconds * 1000, 1)}
                logger.info("request", extra=fields)
            request_id.reset(token)
