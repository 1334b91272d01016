"""What the middleware of this package reads from an ASGI scope (asgi.readthedocs.io, HTTP connection scope)."""

from urllib.parse import quote

from starlette.types import Scope

_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def is_write(scope: Scope) -> bool:
    """Whether the method may change something: any but the safe ones (RFC 9110, section 9.2.1)."""
    return scope["method"] not in _SAFE


def route_path(scope: Scope) -> str:
    """The path that the router matches: decoded, without query and without `root_path`.

    A check of a path must look at the same string as the router, or a caller gets around it.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root or not path.startswith(root):
        return path
    if path == root:
        return ""
    return path[len(root) :] if path[len(root)] == "/" else path


_TEMPLATE = "bloom.template"


def note_template(scope: Scope, template: str) -> None:
    """Let those around it know the route that serves a request, by the template of its path."""
    scope[_TEMPLATE] = template


def template_of(scope: Scope) -> str | None:
    """The template (`/api/runtime/workers/{worker_id}`) of the route that serves a request, if it was noted."""
    return scope.get(_TEMPLATE)


def raw_path(scope: Scope) -> str:
    """The path as the client sent it, still percent-encoded and without query: printable ASCII, whatever was sent."""
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"]).encode() if raw is None else raw.split(b"?", 1)[0]
    text = path.decode("latin-1")
    return text if text.isascii() and text.isprintable() else quote(path, safe="/%:@!$&'()*+,;=~")


def header_values(scope: Scope, name: bytes) -> list[bytes]:
    """Each value of the header `name` (lower case), in the order of the request."""
    return [value for key, value in scope["headers"] if key == name]


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of the header `name` (lower case), or None."""
    for key, value in scope["headers"]:
        if key == name:
            return value
    return None


def has_body(scope: Scope) -> bool:
    """Whether the request announces a body (RFC 9112, section 6.3)."""
    return header(scope, b"transfer-encoding") is not None or header(scope, b"content-length") not in (None, b"0", b"")
