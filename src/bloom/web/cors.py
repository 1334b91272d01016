"""Lets front ends on other origins use the API: those that are listed, and without cookies (fetch.spec.whatwg.org, CORS)."""

import re

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import ConfigurationError
from bloom.web.asgi import header, route_path

_ORIGIN = re.compile(r"(https?)://([a-z0-9-]+(?:\.[a-z0-9-]+)*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_SENT = ("Content-Type", "X-Runtime-API-Key", "Idempotency-Key", "Last-Event-ID", "X-Request-Id")
_READ = ("Link", "Location", "Retry-After", "X-Request-Id", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")
_REMEMBERED_SEC = 600


def parse_origins(text: str) -> frozenset[str]:
    """The origins of a comma list, as browsers write them. Raises ConfigurationError that names `BLOOM_CORS_ORIGINS`."""
    origins: set[str] = set()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = _ORIGIN.fullmatch(entry.lower())
        if match is None or int(match[3] or 0) > 65_535:
            raise ConfigurationError(
                "BLOOM_CORS_ORIGINS must be a comma list of exact origins, such as https://app.example.org or "
                "http://localhost:5173: scheme and host, a port if need be, no path, no *"
            )
        scheme, host, port = match.groups()
        origins.add(f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}")
    return frozenset(origins)


class CorsMiddleware:
    """Answers the preflight requests of pages of `origins` for the API, and lets them read its answers. Nobody else's, and no
    pages of ours.
    """

    def __init__(self, app: ASGIApp, *, origins: frozenset[str]) -> None:
        self.app = app
        self._origins = {origin.encode() for origin in origins}
        self._cors = CORSMiddleware(
            app,
            allow_origins=sorted(origins),
            allow_methods=_METHODS,
            allow_headers=_SENT,
            expose_headers=_READ,
            max_age=_REMEMBERED_SEC,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_theirs = (
            scope["type"] == "http"
            and route_path(scope).startswith("/api/")
            and header(scope, b"origin") in self._origins
        )
        await (self._cors if is_theirs else self.app)(scope, receive, send)
