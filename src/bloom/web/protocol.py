"""Says which versions of the protocol this runtime understands, and refuses a worker that speaks another."""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom import __version__
from bloom.base.errors import Conflict
from bloom.base.protocol import HEADER, OLDEST, PROTOCOL
from bloom.web.asgi import header, route_path
from bloom.web.errors import error_response

_NAME = HEADER.lower().encode()
_RANGE = (_NAME, b"%d-%d" % (OLDEST, PROTOCOL))
# Registering, so that a worker learns it at its first call, and the worker plane.
_OF_WORKERS = re.compile(
    r"/api/runtime/(?:workers(?:/[^/]+/(?:claim|extend|complete))?|llm-tasks/[^/]+/(?:events|output))"
)


class ProtocolMiddleware:
    """Puts the range of versions into each answer below /api/runtime, and answers 409 `protocol_mismatch` to calls of
    workers that name a version outside of it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not (path := route_path(scope)).startswith("/api/runtime/"):
            await self.app(scope, receive, send)
            return

        async def telling_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), _RANGE]
            await send(message)

        refusal = _judge(header(scope, _NAME)) if _is_of_worker(scope["method"], path) else None
        app = self.app if refusal is None else error_response(refusal)
        await app(scope, receive, telling_send)


def _is_of_worker(method: str, path: str) -> bool:
    return method in ("POST", "PUT") and _OF_WORKERS.fullmatch(path) is not None


def _judge(said: bytes | None) -> Conflict | None:
    """The refusal of a caller that speaks `said`, None for one that is understood."""
    if said is None:
        return None
    known = said.isdigit() and len(said) < 10
    speaks = int(said) if known else None
    if speaks is not None and OLDEST <= speaks <= PROTOCOL:
        return None
    understood = f"{OLDEST} to {PROTOCOL}" if OLDEST < PROTOCOL else f"{PROTOCOL}"
    if speaks is None:
        text = f"{HEADER} must be the number of a protocol version; this runtime understands {understood}."
    else:
        older = "the runtime" if speaks > PROTOCOL else "the worker"
        text = (
            f"The worker speaks version {speaks} of the protocol, and this runtime (bloom {__version__}) understands "
            f"{understood}: upgrade {older}."
        )
    return Conflict(text, code="protocol_mismatch", oldest=OLDEST, newest=PROTOCOL)
