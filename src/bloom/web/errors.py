"""The one place that knows which HTTP status belongs to which error of `bloom.base.errors`.

Every answer that is not a success has the body `{"error": ..., "code": ..., **detail}`. Nothing unexpected is ever told
to a caller: it is logged, under the request's id, and answered as `internal`.
"""

import logging
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom.base.errors import (
    BloomError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    Throttled,
    TooLarge,
    Unauthorized,
    Unavailable,
    Upstream,
)
from bloom.web.answers import JsonAnswer
from bloom.web.asgi import raw_path, route_path
from bloom.web.validation import describe_problems

logger = logging.getLogger(__name__)

_STATUS: dict[type[BloomError], int] = {
    InvalidInput: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    Throttled: 429,
    Unavailable: 503,
    Upstream: 502,
}

_FRAMEWORK: dict[int, tuple[str, str]] = {
    400: ("invalid", "The request could not be read"),
    404: ("not_found", "There is nothing under this path"),
    405: ("method_not_allowed", "This path does not know this method"),
    413: ("too_large", "The request body is too large"),
    415: ("unsupported_media_type", "The body must be JSON, with content type application/json"),
}


def json_error(
    status: int,
    code: str,
    error: str | Mapping[str, Any],
    *,
    headers: Mapping[str, str] | None = None,
    detail: Mapping[str, Any] | None = None,
) -> Response:
    """The answer `{"error": error, "code": code, **detail}` with `status`."""
    return JsonAnswer({**(detail or {}), "error": error, "code": code}, status_code=status, headers=headers)


def internal_error() -> Response:
    """The 500 of which a caller learns nothing but that it happened."""
    return json_error(500, "internal", "Internal server error")


def status_of(error: BloomError) -> int:
    """The HTTP status of `error`; 500 for one that callers cannot act on (a configuration error, a bare BloomError)."""
    return next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), 500)


def error_response(error: BloomError) -> Response:
    """The answer for `error`. One of status 500 is logged and told as `internal`."""
    status = status_of(error)
    if status == 500:
        logger.error("unhandled error", exc_info=error, extra={"code": error.code})
        return internal_error()
    if status > 500:
        _warn(error)
    told: str | dict[str, Any] = error.message
    if isinstance(error, InvalidInput) and error.fields:
        told = {"formErrors": [], "fieldErrors": {field: list(texts) for field, texts in error.fields.items()}}
    headers: dict[str, str] = {}
    if isinstance(error, Unavailable | Throttled) and error.retry_after_sec is not None:
        headers["Retry-After"] = str(error.retry_after_sec)
    return json_error(status, error.code, told, headers=headers, detail=error.detail)


_WARN_EVERY_SEC = 1.0
_warned: dict[str, tuple[float, int]] = {}
"""By code: when it was last told in the log, and how often it was left out since."""


def _warn(error: BloomError) -> None:
    """Tell of it in the log, but of each code once a second: a fleet that comes back is refused a thousand times in one."""
    now = time.monotonic()
    last, left_out = _warned.get(error.code, (-_WARN_EVERY_SEC, 0))
    if now - last < _WARN_EVERY_SEC:
        _warned[error.code] = (last, left_out + 1)
        return
    _warned[error.code] = (now, 0)
    more = {"left_out": left_out} if left_out else {}
    logger.warning(error.message, extra={"code": error.code, **more})


async def _on_bloom_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BloomError)  # noqa: S101 (registered for this type alone)
    return error_response(error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return json_error(400, "invalid", describe_problems(error.errors()))


async def _on_framework_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    status = error.status_code
    if status in (204, 304):
        return Response(status_code=status, headers=error.headers)
    # The framework's own words may quote the request.
    code, text = _FRAMEWORK.get(status, (f"http_{status}", HTTPStatus(status).phrase))
    headers = {"Allow": ", ".join(_methods_of(request))} if status == 405 else error.headers
    return json_error(status, code, text, headers=headers)


def _methods_of(request: Request) -> list[str]:
    # The framework names those of the first route that has this path, and not of the others (RFC 9110, section 10.2.1).
    path = route_path(request.scope)
    found = iter_route_contexts(request.app.routes)
    return sorted({m for r in found if r.path and compile_path(r.path)[0].match(path) for m in r.methods or ()})


def install_error_handlers(app: FastAPI) -> None:
    """Make `app` answer each error of the tree, of validation and of routing in the form of the wire contract."""
    app.add_exception_handler(BloomError, _on_bloom_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_framework_error)


class UnexpectedErrorsMiddleware:
    """Answers what nobody caught with a bare 500 and logs it once, with the request's id.

    An answer that had begun is left unfinished: the server then cuts the connection, so that the client does not take a
    part for the whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except ClientDisconnect:
            logger.debug("client left before its request was read")
        except BloomError as error:
            if started:
                logger.exception("error after the answer had begun", extra={"path": raw_path(scope)})
                return
            await error_response(error)(scope, receive, send)
        except Exception:
            logger.exception("unhandled error", extra={"method": scope["method"], "path": raw_path(scope)})
            if not started:
                await internal_error()(scope, receive, send)
