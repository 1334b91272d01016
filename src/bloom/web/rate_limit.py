"""How often a client may call: fixed windows, counted in this process, by client address or by key.

Each process counts by itself: a client of N processes, or replicas, gets at most N times the limit.

Budgets (the wire contract): 100 requests a minute on the API, 20 on test-connection; health is free. The calls that
workers live on have budgets of their own, far above what a worker needs: one per worker for its claims, extends and
completions, one per address for reports on tasks, so that a fleet behind one address is never throttled. They are for
known callers only; one without a valid key spends the general budget, whatever path it calls.
"""

import math
import re
import time
from collections.abc import Callable

from limits import RateLimitItem, parse_many
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom.base.errors import ConfigurationError
from bloom.web.asgi import route_path
from bloom.web.auth import principal_of
from bloom.web.errors import json_error
from bloom.web.proxies import client_key, client_of

TEST_CONNECTION_LIMIT = "20/minute"
WORKER_LIMIT = "6000/minute"
REPORT_LIMIT = "100000/minute"
_MOST_CLIENTS = 50_000

_WORKER_CALL = re.compile(r"/api/runtime/workers/([^/]+)/(?:claim|extend|complete)")
_REPORT_CALL = re.compile(r"/api/runtime/llm-tasks/[^/]+/(?:(?:events|heartbeat|complete)|(output))")

Clock = Callable[[], float]


def parse_rate_limit(text: str) -> RateLimitItem | None:
    """The limit that `text` (`BLOOM_RATE_LIMIT`) names, or None for `off`. Raises ConfigurationError."""
    if text.strip().lower() == "off":
        return None
    try:
        (limit,) = parse_many(text)
    except ValueError:
        limit = None
    if limit is None or limit.amount < 1:
        raise ConfigurationError("BLOOM_RATE_LIMIT must be like 100/minute or 2000/hour, or off for no limit")
    return limit


class Windows:
    """How often each key was counted in its current window, in a mapping of bounded size.

    (The memory storage of `limits` starts a thread every few requests, walks all counters there, and has no bound.)
    When it is full the oldest window is forgotten: its client starts anew, as one with 50,000 addresses could anyway.
    """

    def __init__(self, seconds: float, *, most: int = _MOST_CLIENTS, clock: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        # key → count and end of the window. All last equally long, so the oldest comes first.
        self._windows: dict[str, tuple[int, float]] = {}

    def count(self, key: str) -> tuple[int, float]:
        """Count `key` once: how often it now was, and the seconds until its window, begun at its first count, ends."""
        now = self._clock()
        window = self._windows.get(key)
        if window is None or window[1] <= now:
            self._windows.pop(key, None)
            self._make_room(now)
            window = (0, now + self._seconds)
        counted = self._windows[key] = (window[0] + 1, window[1])
        return counted[0], counted[1] - now

    def __len__(self) -> int:
        return len(self._windows)

    def _make_room(self, now: float) -> None:
        while self._windows:
            oldest = next(iter(self._windows))
            if self._windows[oldest][1] > now and len(self._windows) < self._most:
                break
            del self._windows[oldest]


class Budget:
    """One limit, and how much of it each client has spent."""

    def __init__(self, limit: RateLimitItem, clock: Clock = time.monotonic) -> None:
        self._amount = limit.amount
        self._windows = Windows(limit.get_expiry(), clock=clock)
        self._fixed = [
            (b"ratelimit-policy", f"{limit.amount};w={limit.get_expiry()}".encode()),
            (b"ratelimit-limit", str(limit.amount).encode()),
        ]

    def spend(self, who: str) -> tuple[bool, int, list[tuple[bytes, bytes]]]:
        """Count one request of `who`: whether it is within the limit, seconds until the window ends, answer headers.

        The headers are those of draft-ietf-httpapi-ratelimit-headers-06.
        """
        count, left = self._windows.count(who)
        seconds = max(1, math.ceil(left))
        headers = [
            *self._fixed,
            (b"ratelimit-remaining", b"%d" % max(0, self._amount - count)),
            (b"ratelimit-reset", b"%d" % seconds),
        ]
        return count <= self._amount, seconds, headers


class RateLimitMiddleware:
    """Answers 429 `rate_limited` to a client that is over its budget, and tells each client what is left.

    With `by_key` callers who showed a key are counted by it, wherever they come from; others by their address.
    """

    def __init__(
        self, app: ASGIApp, *, limit: RateLimitItem, by_key: bool = False, clock: Clock = time.monotonic
    ) -> None:
        self.app = app
        self._by_key = by_key
        self._general = Budget(limit, clock)
        self._test_connection = Budget(parse_many(TEST_CONNECTION_LIMIT)[0], clock)
        self._workers = Budget(parse_many(WORKER_LIMIT)[0], clock)
        self._reports = Budget(parse_many(REPORT_LIMIT)[0], clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chosen = self._choose(scope) if scope["type"] == "http" else None
        if chosen is None:
            await self.app(scope, receive, send)
            return
        budget, who = chosen
        within, seconds, headers = budget.spend(who)

        async def telling_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        if within:
            await self.app(scope, receive, telling_send)
            return
        text = "Too many requests, please try again later"
        refusal = json_error(429, "rate_limited", text, headers={"Retry-After": str(seconds)})
        await refusal(scope, receive, telling_send)

    def _choose(self, scope: Scope) -> tuple[Budget, str] | None:
        path = route_path(scope)
        if not path.startswith("/api/"):
            return None
        method = scope["method"]
        if path == "/api/runtime/health" and method == "GET":
            return None
        who = client_key(client_of(scope))
        if path == "/api/runtime/test-connection" and method == "POST":
            return self._test_connection, who
        if (principal := principal_of(scope)) is not None:
            if method == "POST" and (call := _WORKER_CALL.fullmatch(path)):
                return self._workers, f"{who} {call[1][:128]}"
            report = _REPORT_CALL.fullmatch(path) if method in ("POST", "PUT") else None
            if report and method == ("PUT" if report[1] else "POST"):
                return self._reports, who
            if self._by_key:
                who = f"{principal.name} (key)"
        return self._general, who
