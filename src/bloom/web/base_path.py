"""Serves below a path of somebody else's site, such as `/bloom` behind nginx."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import ConfigurationError

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def parse_base_path(text: str) -> str:
    """`BLOOM_BASE_PATH` without the slash at its end; "" for the root. Raises ConfigurationError."""
    path = text.strip().rstrip("/")
    if not _PATH.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        raise ConfigurationError("BLOOM_BASE_PATH must be a path such as /bloom, or empty to serve at the root")
    return path


class BasePathMiddleware:
    """Tells the router of the base path; a proxy may have taken it away from the request's path, or left it there."""

    def __init__(self, app: ASGIApp, *, base: str) -> None:
        self.app = app
        self._base = base

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._base:
            scope["root_path"] = self._base
        await self.app(scope, receive, send)
