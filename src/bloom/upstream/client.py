"""Calls of Membridge: bounded in time and size, retried where that is safe, the key in no answer and no error.

Redirects are not followed: they would carry the key to wherever the answer says. Proxies of the environment are not used
either, for the same reason. What comes back is parsed and written anew, never passed through.
"""

import asyncio
import random
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any, cast

import httpx

from bloom import __version__
from bloom.base.errors import InvalidInput, Upstream
from bloom.upstream.model import UNREADABLE, KeySource, Target
from bloom.web.bodies import parse_json

KEY_HEADER = "X-MEMBRIDGE-ADMIN"
TIMEOUT_SEC = 10.0
"""For a call with all its retries: whoever waits behind it waits no longer."""

RETRIES = 3
FIRST_PAUSE_SEC = 0.5
JITTER = 0.3
MAX_ANSWER_BYTES = 5 * 1024 * 1024

_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CODES = {401: "membridge_unauthorized", 403: "membridge_forbidden"}
_OF_AN_AGENT = ("agent_offline", "agent_unreachable")
_LONGEST_MESSAGE = 500
_SHORT_KEY = 8
_HIDDEN = "********"
_HEADERS = {
    "Accept": "application/json",
    # A compressed answer of 5 MiB could be one of 5 GiB.
    "Accept-Encoding": "identity",
    "User-Agent": f"bloom-runtime/{__version__}",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What Membridge said. `value` is the parsed JSON; None for an error without any. `server_time` is its clock, in epoch
    seconds.
    """

    status: int
    value: Any
    server_time: float | None

    @property
    def is_success(self) -> bool:
        """Whether it did what was asked."""
        return 200 <= self.status < 300

    @property
    def fields(self) -> dict[str, Any] | None:
        """The answer's object; None when it is none."""
        value: object = self.value
        return cast("dict[str, Any]", value) if isinstance(value, dict) else None

    @property
    def failure(self) -> str | None:
        """What the answer says of the connection: None unless the key is refused or Membridge itself fails."""
        if self.status in (401, 403):
            return f"Membridge refuses the admin key ({self.status})"
        return f"Membridge answered {self.status}" if self.status >= 500 else None

    @property
    def of_an_agent(self) -> bool:
        """Whether it is Membridge that works, and an agent behind it that does not."""
        return self.status == 502 and (self.fields or {}).get("code") in _OF_AN_AGENT

    @property
    def refusal(self) -> tuple[str, str]:
        """Code and message of an answer that is no success. What Membridge says of the request is for the caller; of its own
        failures, which may tell of its inside, only the status is.
        """
        message = self.failure or f"Membridge answered {self.status}"
        code = _CODES.get(self.status, "membridge_error")
        said = self.fields or {}
        if self.failure is None or self.of_an_agent:
            for field in ("error", "detail"):
                if isinstance(text := said.get(field), str) and text:
                    message = text[:_LONGEST_MESSAGE]
                    break
            if isinstance(named := said.get("code"), str) and _CODE.fullmatch(named):
                code = named
        return code, message


class MembridgeClient:
    """`pause` takes the place of waiting between retries (seconds)."""

    def __init__(self, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._pause = pause

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    async def call(
        self, target: Target, method: str, path: str, body: Mapping[str, Any] | None = None, *, retries: int = RETRIES
    ) -> Answer:
        """Ask `target`. A GET is tried again on 5xx and on errors of the network, after 0.5 s · 2^n plus up to 30 %.

        Raises Upstream, whose message holds nothing that came from Membridge: `membridge_not_configured`,
        `membridge_key_unreadable`, `membridge_unreachable`, `membridge_timeout`, `membridge_redirect`,
        `membridge_too_large`, `membridge_not_json`.
        """
        if not target.configured:
            raise Upstream("No Membridge is configured.", code="membridge_not_configured")
        if target.key_source is KeySource.UNREADABLE:
            raise Upstream(UNREADABLE, code="membridge_key_unreadable")
        outcome: Answer | Upstream = Upstream(
            f"Membridge did not answer within {TIMEOUT_SEC:g} seconds.", code="membridge_timeout"
        )
        try:
            # A client for each call: cookies that Membridge sets are nobody's.
            async with asyncio.timeout(TIMEOUT_SEC), self._http(target) as http:
                for attempt in range(1 + (retries if method == "GET" else 0)):
                    if attempt:
                        await self._pause(FIRST_PAUSE_SEC * 2 ** (attempt - 1) * (1 + JITTER * random.random()))  # noqa: S311
                    outcome = await _attempt(http, method, target.url + path, body)
                    if not _worth_a_retry(outcome):
                        break
        except TimeoutError:
            pass  # then the outcome is that of the attempt before, if there was one
        if isinstance(outcome, Upstream):
            raise outcome
        return Answer(outcome.status, without_key(outcome.value, target.admin_key), outcome.server_time)

    def _http(self, target: Target) -> httpx.AsyncClient:
        headers = _HEADERS if target.admin_key is None else {**_HEADERS, KEY_HEADER: target.admin_key}
        return httpx.AsyncClient(
            headers=headers,
            follow_redirects=False,
            trust_env=False,
            timeout=None,  # noqa: S113 (the call as a whole is bounded, a drip of bytes too)
            verify=self._tls,
        )


def _worth_a_retry(outcome: Answer | Upstream) -> bool:
    if isinstance(outcome, Answer):
        return outcome.status >= 500
    return outcome.code == "membridge_unreachable"


async def _attempt(http: httpx.AsyncClient, method: str, url: str, body: Mapping[str, Any] | None) -> Answer | Upstream:
    try:
        async with http.stream(method, url, json=body) as response:
            if 300 <= response.status_code < 400:
                return Upstream("Membridge answered with a redirect, which is not followed.", code="membridge_redirect")
            if not 200 <= response.status_code < 600:
                return Upstream("Membridge answered with something that is not HTTP.", code="membridge_not_json")
            content = await _content(response)
    except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL):
        # Their words may quote what was sent or received.
        return Upstream("Membridge cannot be reached, or ended the connection.", code="membridge_unreachable")
    if content is None:
        text = f"Membridge answered with more than {MAX_ANSWER_BYTES // 1024**2} MiB."
        return Upstream(text, code="membridge_too_large")
    try:
        value = parse_json(content)
    except InvalidInput:
        if response.status_code < 400:
            return Upstream("Membridge answered with something that is not JSON.", code="membridge_not_json")
        value = None
    return Answer(response.status_code, value, _server_time(response))


async def _content(response: httpx.Response) -> bytes | None:
    """The body as it was sent (compressed it is not JSON), or None for one that is too large."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            return None
    return bytes(content)


def _server_time(response: httpx.Response) -> float | None:
    try:
        return parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None


def without_key(value: Any, key: str | None) -> Any:
    """The JSON `value` with each occurrence of `key` hidden, in names and numbers too.

    A key of up to 8 characters, which may be a part of any word, is hidden where it stands alone.
    """
    if not key:
        return value
    pattern = re.escape(key)
    if len(key) <= _SHORT_KEY:
        pattern = rf"(?<![A-Za-z0-9_-]){pattern}(?![A-Za-z0-9_-])"
    return _hide(value, re.compile(pattern))


def _hide(value: Any, key: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return key.sub(_HIDDEN, value)
    if isinstance(value, dict):
        return {key.sub(_HIDDEN, name): _hide(item, key) for name, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_hide(item, key) for item in cast("list[Any]", value)]
    if isinstance(value, int | float) and not isinstance(value, bool) and key.search(repr(value)):
        return _HIDDEN
    return value
