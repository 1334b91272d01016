"""When the runtime cannot be reached or refuses: what is logged (once), and how long to wait before the next try."""

import logging
import random
import time

from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.worker.options import Pace

log = logging.getLogger("bloom.worker")

Trouble = RuntimeUnreachable | RuntimeRefused

_MAX_ASKED_PAUSE_SEC = 300
_FORGET_SEC = 120


def is_passing(error: Trouble) -> bool:
    """Whether the same request may succeed later: all but a refusal of what it says (400, 404, 409, 413 ...)."""
    return (
        isinstance(error, RuntimeUnreachable)
        or _is_key(error)
        or _is_version(error)
        or error.status in (408, 425, 429)
        or error.status >= 500
    )


def _is_key(error: Trouble) -> bool:
    return isinstance(error, RuntimeRefused) and error.status in (401, 403)


def _is_version(error: Trouble) -> bool:
    return error.code == "protocol_mismatch"


class Reachability:
    """What the daemon's loops together know of the runtime. Logs a line per kind of trouble, and one at its end."""

    def __init__(self) -> None:
        self._failed_at: dict[str, float] = {}
        self._said: set[str] = set()
        self._since = 0.0

    def answered(self, loop: str) -> None:
        """A request of the loop of this name was answered."""
        if not self._failed_at:
            return
        now = time.monotonic()
        # A loop that asks nothing any more, for want of a lease, is in no trouble either.
        for name in [n for n, at in self._failed_at.items() if n == loop or now - at > _FORGET_SEC]:
            del self._failed_at[name]
        if not self._failed_at:
            log.info("the runtime is back", extra={"away_sec": round(now - self._since, 1)})

    def failed(self, loop: str, error: Trouble) -> None:
        """A request of the loop of this name failed."""
        now = time.monotonic()
        if not self._failed_at:
            self._since = now
            self._said.clear()
        self._failed_at[loop] = now
        if error.code in self._said:
            return
        self._said.add(error.code)
        if _is_key(error):
            log.error("the runtime refuses this worker's key (%s); check BLOOM_API_KEY", error.message)
        elif _is_version(error):
            log.error("%s", error.message)
        else:
            log.warning("%s; trying again", error.message, extra={"code": error.code})


class Backoff:
    """The pauses of one loop: they double, with jitter, until a request succeeds."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._next = pace.retry_first_sec

    def reset(self) -> None:
        """A request succeeded."""
        self._next = self._pace.retry_first_sec

    def pause_sec(self, error: Trouble | None = None) -> float:
        """How long to wait after `error`: what the runtime asks for (up to 300 s), else the next pause of the row."""
        if isinstance(error, RuntimeRefused):
            if _is_key(error) or _is_version(error):
                return self._pace.refused_sec
            if error.retry_after_sec is not None:
                return min(max(error.retry_after_sec, self._pace.retry_first_sec), _MAX_ASKED_PAUSE_SEC)
        pause = self._next
        self._next = min(pause * 2, self._pace.retry_max_sec)
        return pause * random.uniform(0.5, 1)  # noqa: S311 - jitter, no secret
