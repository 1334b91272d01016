"""Refuses bodies over a limit before they are in memory.

A body that announces its length is refused unread; one that comes in chunks is counted. The answer goes out while the
client may still be sending: the server then reads the rest and throws it away, so that the client gets to read the
answer.
"""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom.base.errors import TooLarge
from bloom.web.asgi import header, route_path
from bloom.web.errors import error_response

ExemptBody = Callable[[str, str], bool]
"""Whether the body of a request (method, path) has no limit here: its route reads it as a stream and limits it."""


def no_exempt_body(method: str, path: str) -> bool:
    """No body is exempt from the limit."""
    return False


class BodyLimitMiddleware:
    """Answers 413 `too_large` to a request whose body is over `max_bytes`."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, exempt: ExemptBody = no_exempt_body) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._exempt = exempt

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._exempt(scope["method"], route_path(scope)):
            await self.app(scope, receive, send)
            return
        announced = header(scope, b"content-length")
        if announced is None or not announced.isdigit() or header(scope, b"transfer-encoding") is not None:
            await self._count(scope, receive, send)
        elif int(announced[:20]) > self._max_bytes:
            await self._refuse(scope, receive, send)
        else:
            # The server hands on no more than was announced.
            await self.app(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen = 0
        over = started = False

        async def counting_receive() -> Message:
            nonlocal seen, over
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._max_bytes:
                    over = True
                    raise self._error()
            return message

        async def watched_send(message: Message) -> None:
            nonlocal started
            # Whatever a framework makes of the error above, the answer is ours.
            if over and not started:
                return
            started = True
            await send(message)

        try:
            await self.app(scope, counting_receive, watched_send)
        except TooLarge:
            if not over or started:
                raise
        if over and not started:
            await self._refuse(scope, receive, send)

    def _error(self) -> TooLarge:
        return TooLarge(f"The request body is over the limit of {self._max_bytes} bytes", limit_bytes=self._max_bytes)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await error_response(self._error())(scope, receive, send)
