"""Runs of a load, ours and the limit's in turn, so that both meet the same moods of a shared machine."""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bench.stack import Runtime, Stack
from bench.usage import ProcessTree, cores_between, read


@dataclass(frozen=True)
class Run:
    """One run: tasks per second; the cores used on average, by whom; the most memory of one server process; quantiles of
    the time of a client's round; what the probes said at the beginning and at the end.
    """

    per_sec: float
    cores: Mapping[str, float]
    server_mib: float | None = None
    took_ms: Mapping[str, float] = field(default_factory=dict[str, float])
    probed: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    seconds: float = 0.0
    told: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """All that the load generator said at its end."""


@dataclass(frozen=True)
class Compared:
    """Several runs of one kind: the one in the middle, and the median of the ratios to the runs of the limit around them."""

    run: Run
    ratio: float


def load(
    stack: Stack,
    runtime: Runtime,
    name: str,
    *,
    clients: int,
    seconds: float,
    warm_up_sec: float = 2,
    probes: Mapping[str, Callable[[], float]] | None = None,
) -> Run:
    """One run of the load generator `name` in a process of its own. Raises RuntimeError when any request was refused."""
    options = {
        "port": runtime.port,
        "key": runtime.key,
        "clients": clients,
        "warm_up_sec": warm_up_sec,
        "seconds": seconds,
    }
    argv = ["-m", "bench.load", name]
    run = generate(argv, options, {"server": runtime.tree, "PostgreSQL": stack.postgres}, probes=probes)
    return replace(run, server_mib=runtime.tree.peak_mib())


def generate(
    argv: Sequence[str],
    options: Mapping[str, Any],
    trees: Mapping[str, ProcessTree],
    *,
    probes: Mapping[str, Callable[[], float]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Run a load generator (arguments of Python) that tells of its window on stdout; `trees` are looked at meanwhile."""
    probes = probes or {}
    with subprocess.Popen(
        [sys.executable, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **(environment or {})},
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        trees = {**trees, "generator": ProcessTree(process.pid)}
        process.stdin.write(json.dumps(options))
        process.stdin.close()
        if process.stdout.readline() != "begun\n":
            raise RuntimeError("the load generator stopped before it began")
        before, first = read(trees), {what: look() for what, look in probes.items()}
        if process.stdout.readline() != "ended\n":
            raise RuntimeError("the load generator stopped before its time")
        after, last = read(trees), {what: look() for what, look in probes.items()}
        told = process.stdout.readline()
    if process.returncode != 0:
        raise RuntimeError("the load generator failed")
    result = json.loads(told)
    return Run(
        result["done"] / result["seconds"],
        cores_between(before, after),
        took_ms=result["took_ms"],
        probed={what: (first[what], last[what]) for what in probes},
        seconds=result["seconds"],
        told=result,
    )


def in_turn(
    limit: Callable[[], Run], ours: Mapping[str, Callable[[], Run]], *, rounds: int
) -> tuple[Run, dict[str, Compared]]:
    """Run limit, ours, limit, ours, limit ...; each of ours is compared with the mean of the limits before and after it."""
    limits = [limit()]
    runs: dict[str, list[Run]] = {name: [] for name in ours}
    ratios: dict[str, list[float]] = {name: [] for name in ours}
    for _ in range(rounds):
        for name, measure in ours.items():
            runs[name].append(measure())
            limits.append(limit())
            ratios[name].append(runs[name][-1].per_sec / statistics.mean(run.per_sec for run in limits[-2:]))
    return median_run(limits), {
        name: Compared(median_run(runs[name]), statistics.median(ratios[name])) for name in ours
    }


def median_run(runs: Sequence[Run]) -> Run:
    """The run whose tasks per second are in the middle, with the highest memory of all."""
    middle = sorted(runs, key=lambda run: run.per_sec)[len(runs) // 2]
    return replace(middle, server_mib=max((run.server_mib for run in runs if run.server_mib is not None), default=None))
