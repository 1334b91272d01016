"""What is known of how Membridge answers: shown in /health, logged when it changes."""

import logging
import time
from datetime import UTC, datetime
from typing import Any

from bloom.base.clock import to_ms_or_none
from bloom.upstream.model import Saved

QUIET_SEC = 10.0
"""A Membridge that comes and goes by the second is told of once in this time."""

_log = logging.getLogger(__name__)


class LinkHealth:
    """The state of one process. Each change between working and failing is a line of the log; what repeats is none."""

    def __init__(self) -> None:
        self.failures = 0
        self.last_success: datetime | None = None
        self.last_error: str | None = None
        self._revision = -1
        self._told: bool | None = None
        self._silent_until = 0.0

    @property
    def connected(self) -> bool:
        """Whether the last answer was a good one."""
        return self.failures == 0 and self.last_success is not None

    def begin(self, saved: Saved) -> None:
        """What was known before `saved` was saved is of another connection."""
        if saved.revision > self._revision:
            self._revision = saved.revision
            self.failures, self.last_success, self.last_error = 0, None, None
            self._told, self._silent_until = None, 0.0

    def succeeded(self, revision: int) -> None:
        """Membridge, the one of the connection `revision`, answered as it should."""
        self._become(revision, 0, datetime.fromtimestamp(time.time(), UTC), None)

    def failed(self, revision: int, reason: str) -> None:
        """It did not. `reason` is shown to everybody: no secret, nothing that Membridge wrote."""
        self._become(revision, self.failures + 1, self.last_success, reason)

    def adopt(self, saved: Saved) -> None:
        """Take over what the replica that asked last has found, once it has found something."""
        if saved.failures or saved.last_success is not None:
            self._become(saved.revision, saved.failures, saved.last_success, saved.last_error)

    def fields(self) -> dict[str, Any]:
        """`membridge` of GET /health."""
        return {
            "consecutiveFailures": self.failures,
            "lastSuccess": to_ms_or_none(self.last_success),
            "lastError": self.last_error,
            "connected": self.connected,
        }

    def _become(self, revision: int, failures: int, last_success: datetime | None, last_error: str | None) -> None:
        if revision != self._revision:
            return
        self.failures, self.last_success, self.last_error = failures, last_success, last_error
        if self.connected == self._told or time.monotonic() < self._silent_until:
            return
        self._told, self._silent_until = self.connected, time.monotonic() + QUIET_SEC
        if self.connected:
            _log.info("Membridge answers")
        else:
            _log.warning("Membridge does not answer as it should", extra={"reason": last_error})
