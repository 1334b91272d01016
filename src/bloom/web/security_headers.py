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
    (b"permissions-policy", b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
    # No other origin gets a hold of our windows, or embeds what is ours. Front ends that are listed fetch with CORS.
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
"""A year of https alone, for this host: its subdomains may be somebody else's."""

_API = (*_ALWAYS, (b"cache-control", b"no-store"))


class SecurityHeadersMiddleware:
    """Adds the security headers, and `Cache-Control: no-store` under `api`, where an answer does not set them.

    With `strict_transport` what is answered over https, as trusted proxies say, tells browsers to stay with it.
    """

    def __init__(self, app: ASGIApp, *, api: str = "/api/", strict_transport: bool = False) -> None:
        self.app = app
        self._api = api
        self._strict_transport = strict_transport

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
                # Only now: the scheme is what the proxies said, and they are asked below this.
                if self._strict_transport and scope["scheme"] == "https":
                    headers.append(STRICT_TRANSPORT)
                message["headers"] = headers
            await send(message)

        await self.app(scope, receive, completing_send)
