"""Keeps web pages out of a server that needs no key (development mode).

Such a server listens on loopback only, but any page in a browser on the same machine can send requests there. A page of
another origin cannot hide its `Origin` on a write; one that rebinds its own name to 127.0.0.1 (DNS rebinding) still
sends that name as `Host`; and a form can send anything but JSON without the browser asking first.
"""

from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import Forbidden
from bloom.web.asgi import has_body, header, header_values, is_write, route_path
from bloom.web.auth import LOCAL, remember_principal
from bloom.web.errors import error_response, json_error


@lru_cache(maxsize=256)
def is_loopback_host(host: str) -> bool:
    """Whether `host`, of the form of a `Host` header, is localhost, an address of 127.0.0.0/8 or [::1], on any port."""
    if host.startswith("["):
        name, closing, port = host[1:].partition("]")
        if not closing or (port and not port.startswith(":")):
            return False
        port = port[1:]
    else:
        name, _, port = host.partition(":")
        if name.lower() == "localhost":
            return _is_port(port)
        if ":" in port or name.count(".") != 3:
            return False
    try:
        return _is_port(port) and ip_address(name).is_loopback
    except ValueError:
        return False


def is_loopback_origin(origin: str) -> bool:
    """Whether `origin`, an `Origin` header, is a page of this machine. `null` is not."""
    scheme, separator, host = origin.partition("://")
    return bool(separator) and scheme in ("http", "https") and is_loopback_host(host)


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and len(text) <= 5)


class DevelopmentGuardMiddleware:
    """Lets in callers of this machine, as the principal `local`, and refuses what a foreign web page could have sent.

    403 for a `Host` that is no loopback name, on every request, and for an `Origin` that is none, on every write; 415
    for a write under `api` with a body that is not JSON (or, for streamed uploads, an octet stream: no form can send
    that).
    """

    def __init__(self, app: ASGIApp, *, api: str = "/api/", key_name: str = "RUNTIME_API_KEY") -> None:
        self.app = app
        self._api = api
        self._key_name = key_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if (refusal := _refusal(scope, self._key_name)) is not None:
            await error_response(refusal)(scope, receive, send)
        elif is_write(scope) and route_path(scope).startswith(self._api) and not _has_safe_body(scope):
            text = "A body must come with content type application/json while the server needs no key"
            await json_error(415, "unsupported_media_type", text)(scope, receive, send)
        else:
            remember_principal(scope, LOCAL)
            await self.app(scope, receive, send)


def _refusal(scope: Scope, key_name: str) -> Forbidden | None:
    hosts = header_values(scope, b"host")
    if len(hosts) != 1 or not is_loopback_host(hosts[0].decode("latin-1")):
        return Forbidden(
            f"Without {key_name} this server answers only to localhost, 127.0.0.1 or [::1] as Host; "
            "set a key to reach it under another name"
        )
    if is_write(scope):
        origins = header_values(scope, b"origin")
        if len(origins) > 1 or (origins and not is_loopback_origin(origins[0].decode("latin-1"))):
            return Forbidden(f"Without {key_name} this server takes no writes from web pages of other origins")
    return None


def _has_safe_body(scope: Scope) -> bool:
    if not has_body(scope):
        return True
    kind = (header(scope, b"content-type") or b"").split(b";", 1)[0].strip().lower()
    return kind in (b"application/json", b"application/octet-stream") or (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    )
