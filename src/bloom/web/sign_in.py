"""Slows down whoever tries one key after the other, wherever keys are taken: in the header or in a form.

The first wrong keys of an address cost it nothing. After them each further one makes the address wait, 1 s, 2 s, 4 s and so on
up to 30 s, in which no key of it is looked at, so that trying them out in the meantime tells nothing. Keys that this address
has shown before and that were right are looked at all the same: a guesser, or a machine with an old key, does not lock out
its neighbours behind the same address, and a right key that is new there waits 30 s at the longest.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from bloom.base.errors import Throttled
from bloom.web.proxies import client_key

FREE_ATTEMPTS = 10
LONGEST_WAIT_SEC = 30
FORGOTTEN_AFTER_SEC = 900
"""An address from which no wrong key came for so long begins anew."""

_MOST_ADDRESSES = 50_000
_MOST_RIGHT_KEYS = 10_000

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Failures:
    count: int
    last_at: float
    wait_until: float


class SignInAttempts:
    """The wrong keys of each address (IPv6: of each /64), counted in this process and in bounded memory. `clock` is monotonic,
    in seconds.
    """

    def __init__(self, *, most: int = _MOST_ADDRESSES, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._failures: dict[str, _Failures] = {}
        # Salted by Python for this process. Whoever hit one by chance would only have his key looked at.
        self._right: dict[int, None] = {}

    async def find(self, client: str, presented: bytes, find: Callable[[bytes], Awaitable[T | None]]) -> T | None:
        """What `find(presented)` says of a key that the address `client` shows. None counts as a wrong key, and is logged
        without it.

        Raises Throttled (`too_many_wrong_keys`) while the address has to wait, and what `find` raises.
        """
        who = client_key(client)
        mark = hash((who, presented))
        if mark not in self._right and (wait := self._wait_sec(who)) > 0:
            raise Throttled(
                f"Too many wrong keys came from this address; try again in {wait} s.",
                code="too_many_wrong_keys",
                retry_after_sec=wait,
            )
        found = await find(presented)
        if found is None:
            self._right.pop(mark, None)
            self._count(who)
        elif mark not in self._right:
            if len(self._right) >= _MOST_RIGHT_KEYS:
                del self._right[next(iter(self._right))]
            self._right[mark] = None
        return found

    def __len__(self) -> int:
        return len(self._failures)

    def _wait_sec(self, who: str) -> int:
        failures = self._failures.get(who)
        return 0 if failures is None else math.ceil(failures.wait_until - self._clock())

    def _count(self, who: str) -> None:
        now = self._clock()
        failures = self._failures.pop(who, None)
        count = 1 if failures is None or failures.last_at + FORGOTTEN_AFTER_SEC <= now else failures.count + 1
        wait_sec = 0 if count <= FREE_ATTEMPTS else min(2 ** min(count - FREE_ATTEMPTS - 1, 16), LONGEST_WAIT_SEC)
        if len(self._failures) >= self._most:
            del self._failures[next(iter(self._failures))]
        self._failures[who] = _Failures(count, now, now + wait_sec)
        _log.warning("wrong key", extra={"client": who, "attempts": count, "wait_sec": wait_sec})
