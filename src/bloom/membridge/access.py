"""Who may call the control plane: whoever shows the one admin key, in `X-MEMBRIDGE-ADMIN`."""

from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import BloomError, Throttled, Unauthorized
from bloom.web.asgi import header, route_path
from bloom.web.auth import AdminKey, remember_principal
from bloom.web.errors import error_response
from bloom.web.proxies import client_of
from bloom.web.sign_in import SignInAttempts

KEY_HEADER = b"x-membridge-admin"


def is_open(scope: Scope) -> bool:
    """Whether the request needs no key: `GET /health`."""
    return scope["method"] == "GET" and route_path(scope) == "/health"


class RequireAdminKeyMiddleware:
    """Answers 401 `unauthorized` to a caller without the key, and 429 to an address that tries too many wrong ones.

    Known callers have no limit: each of their calls is one statement or two, and a fleet may come from one address.
    """

    def __init__(self, app: ASGIApp, *, key: AdminKey) -> None:
        self.app = app
        self._key = key
        self._attempts = SignInAttempts()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        if scope["type"] != "http" or is_open(scope):
            await self.app(scope, receive, send)
            return
        refusal: BloomError = Unauthorized("A valid key is needed in the header X-MEMBRIDGE-ADMIN")
        if (presented := header(scope, KEY_HEADER)) is not None:
            try:
                principal = await self._attempts.find(client_of(scope), presented, self._key.find)
            except Throttled as throttled:
                refusal = throttled
            else:
                if principal is not None:
                    remember_principal(scope, principal)
                    await self.app(scope, receive, send)
                    return
        await error_response(refusal)(scope, receive, send)
