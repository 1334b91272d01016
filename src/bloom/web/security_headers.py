"""The headers that every answer carries, whoever wrote it."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom.web.asgi import route_path

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Nothing inline, nothing from elsewhere, in no frame. Sent with every content type: an artifact may be HTML or SVG."""

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # without a referrer browsers send `Origin: null` with a form of our own
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
)
_API = (*_ALWAYS, (b"cache-control", b"no-store"))


class SecurityHeadersMiddleware:
    """Adds the security headers, and `Cache-Control: no-store` under `api`, where an answer does not set them."""

    def __init__(self, app: ASGIApp, *, api: str = "/api/") -> None:
        self.app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        pairs = _API if route_path(scope).startswith(self._api) else _ALWAYS

        async def completing_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name for name, _ in headers}
                headers.extend(pair for pair in pairs if pair[0] not in present)
                message["headers"] = headers
            await send(message)

        await self.app(scope, receive, completing_send)
