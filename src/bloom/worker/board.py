"""How this machine is doing: what the runtime is told with each claim and extend, and when the worker takes nothing new."""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bloom.worker.config import LimitSettings
from bloom.workers.schemas import Board

log = logging.getLogger("bloom.worker")

Measure = Callable[[], Board]
"""Look at the machine; may take a moment."""

_MEGABYTE = 1024**2

# Sensors of the processor, as Linux names them: others (disks, radios) run hotter or mean nothing.
_PROCESSOR_SENSORS = ("cpu_thermal", "cpu-thermal", "soc_thermal", "coretemp", "k10temp", "zenpower", "acpitz")


def measure(directory: Path) -> Board:
    """This machine now, with the disk on which `directory` is. What cannot be measured here is None."""
    memory = psutil.virtual_memory()
    load = free_disk = None
    with contextlib.suppress(OSError):
        load = round(os.getloadavg()[0], 2)
    with contextlib.suppress(OSError):
        free_disk = psutil.disk_usage(str(directory)).free
    return Board(
        free_memory_bytes=memory.available,
        total_memory_bytes=memory.total,
        load_1m=load,
        cores=os.cpu_count(),
        temperature_c=_temperature(),
        free_disk_bytes=free_disk,
    )


def _temperature() -> float | None:
    """The hottest sensor of the processor in °C. Small boards have one, virtual machines and macOS none."""
    try:
        sensors = psutil.sensors_temperatures()
    except (AttributeError, OSError, ValueError):  # not on this system; a sensor that went away or is broken
        return None
    found = [sensor.current for name in _PROCESSOR_SENSORS for sensor in sensors.get(name, ())]
    sane = [degrees for degrees in found if -50 < degrees < 200]
    return round(max(sane), 1) if sane else None


@dataclass(frozen=True)
class _Rule:
    """One limit: pressure begins beyond `limit` and ends beyond `relief`, which lies on its better side."""

    name: str
    unit: str
    of: Callable[[Board], float | None]
    limit: float
    relief: float

    def is_broken(self, board: Board, before: bool) -> bool:
        """Whether `board` is beyond the limit or, if it was `before`, not yet better than the relief."""
        value = self.of(board)
        if value is None:
            return False
        limit = self.relief if before else self.limit
        return value > limit if self.relief < self.limit else value < limit

    def describe(self, board: Board) -> str:
        """The reason, in words."""
        return f"{self.name} is {self.of(board):.4g}{self.unit} (limit {self.limit:.4g}, again at {self.relief:.4g})"


def _rules(limits: LimitSettings) -> list[_Rule]:
    rules: list[_Rule] = []
    if limits.min_free_memory_mb:
        least = limits.min_free_memory_mb
        rules.append(_Rule("free memory", " MB", lambda b: _mb(b.free_memory_bytes), least, least * 1.25))
    if limits.min_free_disk_mb:
        least = limits.min_free_disk_mb
        rules.append(_Rule("free disk", " MB", lambda b: _mb(b.free_disk_bytes), least, least * 1.25))
    if limits.max_load_per_core is not None:
        most = limits.max_load_per_core
        rules.append(_Rule("load per core", "", _load_per_core, most, most * 0.8))
    if limits.max_temperature_c is not None:
        most = limits.max_temperature_c
        rules.append(_Rule("temperature", " °C", lambda b: b.temperature_c, most, most - 5))
    return rules


def _mb(count: int | None) -> float | None:
    return None if count is None else count / _MEGABYTE


def _load_per_core(board: Board) -> float | None:
    return None if board.load_1m is None else board.load_1m / (board.cores or 1)


class BoardWatch:
    """Looks at the machine every few seconds and judges by the limits, each with a way back: no flutter at the edge.

    `unfit` says why the worker can run nothing at all, for other reasons than its machine; None while it can.
    """

    def __init__(
        self, limits: LimitSettings, look: Measure, every_sec: float, unfit: Callable[[], str | None] = lambda: None
    ) -> None:
        self._rules = _rules(limits)
        self._broken: frozenset[_Rule] = frozenset()
        self._look = look
        self._every_sec = every_sec
        self._unfit = unfit
        self._board = Board()

    @property
    def pressed(self) -> bool:
        """Whether the machine is beyond a limit: nothing new is to be taken."""
        return bool(self._broken)

    def board(self) -> Board:
        """What was last measured, with all reasons why this worker takes nothing new."""
        reasons = self._reasons()
        if (unfit := self._unfit()) is not None:
            reasons.append(unfit[:255])
        return self._board.model_copy(update={"pressure": reasons})

    async def look(self) -> None:
        """Measure and judge. Logs when pressure begins and when it ends."""
        self._board = board = await asyncio.to_thread(self._look)
        broken = frozenset(rule for rule in self._rules if rule.is_broken(board, rule in self._broken))
        before, self._broken = self._broken, broken
        if broken and not before:
            log.warning("under pressure, the worker takes nothing new: %s", "; ".join(self._reasons()))
        elif before and not broken:
            log.info("the pressure is over; the worker takes tasks again")

    async def look_forever(self) -> None:
        """Look every few seconds."""
        while True:
            await asyncio.sleep(self._every_sec)
            await self.look()

    def _reasons(self) -> list[str]:
        return [rule.describe(self._board) for rule in self._rules if rule in self._broken]
