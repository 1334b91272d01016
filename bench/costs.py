"""(k) What the whole life of one task costs PostgreSQL and the server: CPU time, log, disk, transactions."""

from collections.abc import Iterable
from functools import partial
from typing import LiteralString

from bench.figures import Figure, Section
from bench.plan import Plan
from bench.runs import load
from bench.stack import Stack

CLIENTS = 16
LOADS = {"life": "single HTTP calls", "protocol": "worker protocol"}
_COUNTERS: dict[str, LiteralString] = {
    "log written": "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')",
    "disk taken": "select pg_database_size(current_database())",
    "of it the audit log": "select pg_total_relation_size('bloom.audit_log')",
    "transactions": "select xact_commit from pg_stat_database where datname = current_database()",
}
_BYTES = {"log written", "disk taken", "of it the audit log"}
_KIB = 1024


def costs(plan: Plan, stack: Stack) -> Section:
    """By each way: a prompt of 1 KB, an output of 2 KB, one attempt, no events. They hardly depend on what else runs."""
    figures = [figure for name, words in LOADS.items() for figure in _of(plan, stack, name, words)]
    return Section("costs", f"(k) what one task costs, {CLIENTS} clients, one process", tuple(figures))


def _of(plan: Plan, stack: Stack, name: str, words: str) -> Iterable[Figure]:
    stack.empty()
    with stack.runtime() as runtime, stack.connect() as asking:
        probes = {what: partial(stack.number, asking, query) for what, query in _COUNTERS.items()}
        run = load(stack, runtime, name, clients=CLIENTS, seconds=plan.seconds, probes=probes)
    tasks = run.per_sec * run.seconds
    for who in ("PostgreSQL", "server"):
        yield Figure(f"{words}: CPU time of {who}", 1000 * run.cores[who] * run.seconds / tasks, "ms")
    for what, (first, last) in run.probed.items():
        per_task = (last - first) / tasks
        yield Figure(
            f"{words}: {what}", per_task / _KIB if what in _BYTES else per_task, "KiB" if what in _BYTES else ""
        )
