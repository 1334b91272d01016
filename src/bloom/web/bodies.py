"""Reads JSON bodies strictly: whatever is sent, the worst answer is a 400.

The framework's own reader takes NaN and infinities, fails on deep nesting and ignores a body whose content type it does
not know. Routes whose class is `StrictRoute` read with pydantic's parser instead, and take the body for JSON whatever
its content type: old clients send none, or a form's. That no web page of another origin uses this is `development`'s
work.
"""

from collections.abc import Callable, Coroutine
from typing import Any, cast

from fastapi import params
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from bloom.base.errors import InvalidInput

_JSON = (b"content-type", b"application/json")


def parse_json(body: bytes) -> Any:
    """The value of the JSON text `body`.

    Raises InvalidInput, code `invalid_json`, for what is not JSON (RFC 8259), for more than 200 levels, for a lone
    surrogate and for invalid UTF-8; code `invalid` for a number beyond the range of a double.
    """
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        # The parser tells what it expected and where, and quotes nothing.
        raise InvalidInput(f"The body must be valid JSON: {error}", code="invalid_json") from None
    if not _is_finite(value):
        raise InvalidInput("The body must not hold a number beyond 1.8e308")
    return value


async def read_body(receive: Receive) -> bytes | None:
    """The whole body of a request; None for one that is empty or blank. Raises ClientDisconnect when the client leaves."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return None if not body or body.isspace() else body


def _is_finite(value: Any) -> bool:
    waiting: list[Any] = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, float):
            if current - current != 0:
                return False
        elif isinstance(current, dict):
            waiting.extend(cast("dict[str, Any]", current).values())
        elif isinstance(current, list):
            waiting.extend(cast("list[Any]", current))
    return True


class _ReadRequest(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(_as_json(request.scope), request.receive)
        self._body = body
        self._value = value

    async def json(self) -> Any:
        return self._value


def _as_json(scope: Scope) -> Scope:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    if _JSON in headers:
        return scope
    return {**scope, "headers": [pair for pair in headers if pair[0] != b"content-type"] + [_JSON]}


class StrictRoute(APIRoute):
    """A route whose JSON body is read strictly: `APIRouter(route_class=StrictRoute)`.

    An empty body counts as `{}` where one is required, so that each missing field is named.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        field = self.body_field
        if field is None or isinstance(field.field_info, params.Form):
            return handle
        required = field.field_info.is_required()

        async def handle_strictly(request: Request) -> Response:
            body = await request.body()
            if not body or body.isspace():
                if not required:
                    return await handle(request)
                body = b"{}"
            return await handle(_ReadRequest(request, body, parse_json(body)))

        return handle_strictly
