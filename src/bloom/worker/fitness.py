"""Whether this worker can run tasks at all: one that cannot must not take, and fail, the whole queue."""

import logging
import time

from bloom.worker.executors.interface import WORKER_FAULTS, Report
from bloom.worker.options import Pace

log = logging.getLogger("bloom.worker")


class Fitness:
    """Judges by the last reports: after one that names the worker's own fault, claiming pauses."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._next_sec = pace.fault_first_sec
        self._unfit_until = 0.0
        self._fault = ""

    def judge(self, report: Report) -> None:
        """A run ended by itself with `report`."""
        if report.code not in WORKER_FAULTS:
            self._unfit_until = 0.0
            self._next_sec = self._pace.fault_first_sec
            return
        self._unfit_until = time.monotonic() + self._next_sec
        self._fault = report.error_message or "this worker cannot run tasks"
        log.error(
            "this worker cannot run tasks: %s; it claims nothing for now",
            report.error_message,
            extra={"code": report.code, "pause_sec": round(self._next_sec)},
        )
        self._next_sec = min(self._next_sec * 2, self._pace.fault_max_sec)

    def pause_sec(self) -> float:
        """How long to claim nothing; 0 when the worker is fit."""
        return max(0.0, self._unfit_until - time.monotonic())

    def fault(self) -> str | None:
        """Why the worker is not fit, for a person; None when it is."""
        return self._fault if self.pause_sec() else None
