"""Who may call the control plane: whoever shows the one admin key, in `X-MEMBRIDGE-ADMIN`."""

from limits import parse_many
from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import Unauthorized
from bloom.web.asgi import header, route_path
from bloom.web.auth import AdminKey, remember_principal
from bloom.web.errors import error_response, json_error
from bloom.web.rate_limit import Budget, client_key

KEY_HEADER = b"x-membridge-admin"
WRONG_KEYS_LIMIT = "100/minute"


def is_open(scope: Scope) -> bool:
    """Whether the request needs no key: `GET /health`."""
    return scope["method"] == "GET" and route_path(scope) == "/health"


class RequireAdminKeyMiddleware:
    """Answers 401 `unauthorized` to a caller without the key, and 429 to an address that tries too many.

    Known callers have no limit: each of their calls is one statement or two, and a fleet may come from one address.
    """

    def __init__(self, app: ASGIApp, *, key: AdminKey) -> None:
        self.app = app
        self._key = key
        self._guesses = Budget(parse_many(WRONG_KEYS_LIMIT)[0])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        if scope["type"] != "http" or is_open(scope):
            await self.app(scope, receive, send)
            return
        presented = header(scope, KEY_HEADER)
        principal = None if presented is None else await self._key.find(presented)
        if principal is not None:
            remember_principal(scope, principal)
            await self.app(scope, receive, send)
            return
        client: tuple[str, int] | None = scope.get("client")
        within, seconds, _ = self._guesses.spend(client_key(client[0]) if client else "unknown")
        if within:
            refusal = error_response(Unauthorized("A valid key is needed in the header X-MEMBRIDGE-ADMIN"))
        else:
            text = "Too many requests, please try again later"
            refusal = json_error(429, "rate_limited", text, headers={"Retry-After": str(seconds)})
        await refusal(scope, receive, send)
