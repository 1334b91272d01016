"""A figure with what it is compared with: PostgreSQL's limit in the same run, and the target."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.runs import Compared, Run


@dataclass(frozen=True)
class Target:
    """What a figure (or, with `of_ratio`, its ratio to the limit) should be: at least `bound`, or at most."""

    bound: float
    at_most: bool = False
    of_ratio: bool = False

    def judge(self, measured: float) -> tuple[bool, str]:
        """Whether it is met, and in words: `met` or by how much it is missed."""
        met = measured <= self.bound if self.at_most else measured >= self.bound
        if met:
            return True, "met"
        if not self.bound:
            return False, "missed"
        return False, f"missed by {abs(measured - self.bound) / self.bound:.0%}"

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """One line of a table. `ratio` is that to `limit`; `cores` are those used on average, by whom; `server_mib` is the most
    memory of one server process.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    ratio: float | None = None
    target: Target | None = None
    cores: Mapping[str, float] = field(default_factory=dict[str, float])
    server_mib: float | None = None
    took_ms: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def judged(self) -> tuple[bool, str] | None:
        """Whether the target is met, and in words; None without one."""
        if self.target is None:
            return None
        measured = self.ratio if self.target.of_ratio else self.value
        return None if measured is None else self.target.judge(measured)

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {**asdict(self), "judged": self.judged and self.judged[1]}


@dataclass(frozen=True)
class Section:
    """The figures of one measurement."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def plain_figure(name: str, run: Run) -> Figure:
    """What others are compared with."""
    return Figure(name, run.per_sec, "tasks/s", cores=run.cores, server_mib=run.server_mib, took_ms=run.took_ms)


def compared_figure(name: str, compared: Compared, limit: Run, target: Target | None = None) -> Figure:
    """What was measured in turn with `limit`."""
    run = compared.run
    return Figure(
        name, run.per_sec, "tasks/s", limit.per_sec, compared.ratio, target, run.cores, run.server_mib, run.took_ms
    )
