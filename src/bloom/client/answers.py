"""Error answers and broken connections → one of the two errors of a client, in words that say what to do."""

import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urljoin, urlsplit

import httpx

from bloom.client.errors import RuntimeRefused, RuntimeUnreachable

_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    409: "conflict",
    413: "too_large",
    429: "rate_limited",
    502: "upstream",
    503: "unavailable",
}
"""The code of an answer that carries none: 429 and a proxied 502 of the contract, and answers of proxies."""

_GATEWAY = frozenset({502, 503, 504})


def read_refusal(url: str, status: int, headers: Mapping[str, str], body: bytes) -> RuntimeRefused | RuntimeUnreachable:
    """What an answer that is not 2xx means: the error form of the contract, else a proxy's, else no runtime at all."""
    if 300 <= status < 400:
        return RuntimeUnreachable(_redirect_message(url, headers.get("location", "")), code="redirected")
    retry_after = _retry_after(headers)
    form = _error_form(body)
    code = None if form is None else form.pop("code", None)
    if form is not None and (isinstance(code, str) or status in _CODES):
        message, fields = read_error(form.pop("error"))
        known = code if isinstance(code, str) else _CODES[status]
        if status >= 500 and (request := headers.get("x-request-id", "")):
            message += f" (request {request[:64]})"  # the runtime's log has it
        refusal = RuntimeRefused(message, status=status, code=known, retry_after_sec=retry_after, fields=fields)
        refusal.detail = form
        return refusal
    if status in _GATEWAY:
        message = f"a proxy in front of {url} answered {_phrase(status)}; the runtime behind it may be down"
        return RuntimeRefused(message, status=status, code="proxy", retry_after_sec=retry_after)
    if status in _CODES:
        message = f"{url} answered {_phrase(status)}, in a form that is not the runtime's: a proxy may have refused it"
        return RuntimeRefused(message, status=status, code=_CODES[status], retry_after_sec=retry_after)
    return RuntimeUnreachable(
        f"what answers at {url} is not a BLOOM runtime ({_phrase(status)}); check --runtime or BLOOM_URL",
        code="not_a_runtime",
    )


def explain_failure(url: str, error: httpx.HTTPError | httpx.StreamError, wait_sec: float) -> str:
    """One line that names `url` and what to check. Texts of exceptions that may hold a header stay out."""
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return f"cannot reach the runtime at {url}: no connection in time; check the address and the network"
        case httpx.TimeoutException():
            return f"the runtime at {url} did not answer within {wait_sec:g} s"
        case httpx.ProxyError():
            return f"cannot reach the runtime at {url}: the proxy of HTTP_PROXY or HTTPS_PROXY refused"
        case httpx.ConnectError() if _is_tls(error):
            return f"cannot reach the runtime at {url}: its TLS certificate is not accepted; check http or https"
        case httpx.ConnectError():
            return f"cannot reach the runtime at {url}: {_reason(error)}; is it running there?"
        case httpx.LocalProtocolError():
            return f"the request to {url} cannot be sent: a header or the path holds a character that is not allowed"
        case httpx.RemoteProtocolError() | httpx.NetworkError():
            return f"the connection to the runtime at {url} broke off"
        case httpx.DecodingError():
            return f"what answers at {url} sends a body that cannot be decoded"
        case _:
            return f"the exchange with the runtime at {url} failed ({type(error).__name__})"


def _redirect_message(url: str, location: str) -> str:
    try:
        target = urlsplit(urljoin(url, location))
        shown = f"{target.scheme}://{target.hostname}{f':{target.port}' if target.port else ''}"
    except ValueError:
        shown = "another address"
    return (
        f"{url} redirects to {shown}, which is not followed with a key; set --runtime or BLOOM_URL to the final address"
    )


def _error_form(body: bytes) -> dict[str, Any] | None:
    """The object of the contract's error form, None where the body is not one."""
    try:
        answer: object = json.loads(body)
    except ValueError:
        return None
    if not isinstance(answer, dict):
        return None
    form = cast("dict[str, Any]", answer)
    return form if isinstance(form.get("error"), str | dict) else None


def read_error(error: str | dict[str, Any]) -> tuple[str, dict[str, list[str]]]:
    """The text for people and the bad fields, of `error` in either of its two forms."""
    if isinstance(error, str):
        return error, {}
    lines = _texts(error.get("formErrors"))
    named = error.get("fieldErrors")
    fields: dict[str, list[str]] = {}
    if isinstance(named, dict):
        fields = {str(name): _texts(texts) for name, texts in cast("dict[object, object]", named).items()}
    lines += [f"{name}: {text}" for name, texts in fields.items() for text in texts]
    return "; ".join(lines) or "the request is not of the required form", fields


def _texts(value: object) -> list[str]:
    return [str(item) for item in cast("list[object]", value)] if isinstance(value, list) else []


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds; both forms of RFC 9110, section 10.2.3."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _reason(error: BaseException) -> str:
    """The operating system's word for why there is no connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        cause = cause.__cause__ or cause.__context__
    text = str(error)
    if "resolution" in text or "not known" in text or "getaddrinfo" in text or "No address" in text:
        return "its name cannot be resolved"
    return "no connection"
