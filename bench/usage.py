"""What processes take of the machine: CPU time and memory."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MIB = 1024 * 1024


class ProcessTree:
    """A process and its descendants."""

    def __init__(self, process_id: int) -> None:
        self.process_id = process_id
        self._root = psutil.Process(process_id)

    def cpu_sec(self) -> float:
        """CPU seconds that they used so far, those of children that have ended and were waited for too."""
        total = 0.0
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                used = process.cpu_times()
                total += used.user + used.system + used.children_user + used.children_system
        return total

    def peak_mib(self) -> float:
        """The most memory that any one of them has held, in MiB, by its high-water mark (proc(5)) where the system has one."""
        return max((peak_mib(process.pid) for process in self._processes()), default=0.0)

    def now_mib(self) -> float:
        """The memory of the one that holds most now, in MiB."""
        return max(process.memory_info().rss for process in self._processes()) / MIB

    def listening(self, port: int) -> int:
        """How many of its children have a listening socket of `port` open and answer by it; the parent is not counted."""
        found = 0
        for process in self._processes()[1:]:
            with suppress(psutil.Error):
                found += any(
                    one.status == psutil.CONN_LISTEN and one.laddr.port == port
                    for one in process.net_connections(kind="tcp")
                )
        return found

    def _processes(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]


def peak_mib(process_id: int) -> float:
    """The most memory that this process has held, in MiB."""
    status = Path(f"/proc/{process_id}/status")
    with suppress(OSError):
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process_id).memory_info().rss / MIB
    return 0.0


@dataclass(frozen=True)
class Reading:
    """CPU seconds used so far, by whom; `machine` counts everybody's."""

    at: float
    used: Mapping[str, float]
    machine: float


def read(trees: Mapping[str, ProcessTree]) -> Reading:
    """Look at the clock and at the CPU time of `trees` and of the whole machine."""
    times = psutil.cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    return Reading(time.monotonic(), {name: tree.cpu_sec() for name, tree in trees.items()}, busy)


def cores_between(before: Reading, after: Reading) -> dict[str, float]:
    """How many cores each used on average; `others` is what the rest of the machine used meanwhile."""
    seconds = after.at - before.at
    cores = {name: (after.used[name] - before.used[name]) / seconds for name in after.used}
    others = (after.machine - before.machine) / seconds - sum(cores.values())
    return {**cores, "others": max(others, 0.0)}
