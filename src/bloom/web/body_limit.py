"""Refuses bodies over a limit before they are in memory, and more bodies at a time than memory is meant for.

A body that announces its length is refused unread; one that comes in chunks is counted. The answer goes out while the
client may still be sending: the server then reads the rest and throws it away, so that the client gets to read the
answer.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom.base.errors import BloomError, TooLarge, Unavailable
from bloom.web.asgi import header, route_path
from bloom.web.errors import error_response

ExemptBody = Callable[[str, str], bool]
"""Whether the body of a request (method, path) has no limit here: its route reads it as a stream and limits it."""


AT_A_TIME = 4
"""So many bodies of the greatest length, or as much in smaller ones, are held at a time, from their reading to their answer."""


SMALL_BYTES = 64 * 1024
"""Bodies up to this are always let in: a few slow senders of large ones keep nobody's heartbeat out."""


def no_exempt_body(method: str, path: str) -> bool:
    """No body is exempt from the limit."""
    return False


class BodyLimitMiddleware:
    """Answers 413 `too_large` to a request whose body is over `max_bytes`, and 503 `overloaded` while the bodies of the
    requests under way are over AT_A_TIME times that together.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, exempt: ExemptBody = no_exempt_body) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._exempt = exempt
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._exempt(scope["method"], route_path(scope)):
            await self.app(scope, receive, send)
            return
        announced = header(scope, b"content-length")
        if announced is None or not announced.isdigit() or header(scope, b"transfer-encoding") is not None:
            await self._count(scope, receive, send)
        elif int(announced[:20]) > self._max_bytes:
            await error_response(self._too_large())(scope, receive, send)
        elif self._is_full(size := int(announced), more=size):
            await error_response(_overloaded())(scope, receive, send)
        else:
            # The server hands on no more than was announced.
            self._held += size
            try:
                await self.app(scope, receive, send)
            finally:
                self._held -= size

    def _is_full(self, size: int, *, more: int) -> bool:
        return size > SMALL_BYTES and self._held + more > AT_A_TIME * self._max_bytes

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0
        refused: list[BloomError] = []
        started = False

        async def counting_receive() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                if (over := seen + size > self._max_bytes) or self._is_full(seen + size, more=size):
                    refused.append(self._too_large() if over else _overloaded())
                    raise refused[0]
                seen += size
                self._held += size
            return message

        async def watched_send(message: Message) -> None:
            nonlocal started
            # Whatever a framework makes of the error above, the answer is ours.
            if refused and not started:
                return
            started = True
            await send(message)

        try:
            await self.app(scope, counting_receive, watched_send)
        except BloomError as error:
            if error not in refused or started:
                raise
        finally:
            self._held -= seen
        if refused and not started:
            await error_response(refused[0])(scope, receive, send)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request body is over the limit of {self._max_bytes} bytes", limit_bytes=self._max_bytes)


def _overloaded() -> Unavailable:
    return Unavailable(
        "Too many large requests are under way; try again in a second.", code="overloaded", retry_after_sec=1
    )
