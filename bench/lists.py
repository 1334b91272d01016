"""(f) GET /stats and one page of each list on full tables, beside the plain SQL of the same page."""

import asyncio
import json
import time
from typing import LiteralString

from bench.figures import Figure, Section, Target
from bench.load.http import Connection
from bench.load.window import quantiles
from bench.plan import Plan
from bench.stack import Runtime, Stack

WARM_UP = 5

# One status is asked for as a range of the index on (status, seq): by `status = ` the planner walks along all newer rows.
_TASKS_OF_STATUS: LiteralString = """select * from bloom.tasks
where status >= %(status)s and (status, seq) < (%(status)s, 9223372036854775807) order by status desc, seq desc limit 101"""
_LEASES_OF_STATUS: LiteralString = """select * from bloom.leases
where status >= %(status)s and (status, seq) < (%(status)s, 9223372036854775807) order by status desc, seq desc limit 101"""

# What is asked, and what PostgreSQL must give for it at least.
_ASKED: dict[str, LiteralString] = {
    "/stats": "select sum(queued), sum(leased), sum(running), sum(completed) from bloom.counts",
    "/runs": "select * from bloom.tasks order by seq desc limit 50",
    "/llm-tasks": "select * from bloom.tasks order by seq desc limit 101",
    "/llm-tasks?status=queued": _TASKS_OF_STATUS,
    "/llm-tasks?status=completed": _TASKS_OF_STATUS,
    "/llm-tasks?status=dead": _TASKS_OF_STATUS,
    "/leases": "select * from bloom.leases order by seq desc limit 101",
    "/leases?status=active": _LEASES_OF_STATUS,
    "/leases?status=expired": _LEASES_OF_STATUS,
    "/artifacts": "select * from bloom.artifacts order by seq desc limit 101",
    "/artifacts?task_id={task}": "select * from bloom.artifacts where task_id = %(task)s order by seq desc limit 101",
    "/audit": "select * from bloom.audit_log order by id desc limit 101",
    "/workers": "select * from bloom.workers order by id",
    "/llm-tasks/{task}/events": "select * from bloom.task_events where task_id = %(task)s order by id limit 100",
    "/llm-tasks/{task}/results": "select * from bloom.results where task_id = %(task)s",
}


def lists(plan: Plan, stack: Stack) -> Section:
    """The median of requests one after another must stay below the target; the limit is the median of the SQL alone."""
    database = stack.filled(quick=plan.quick)
    rounds = 20 if plan.quick else 100
    with stack.connect(database) as connection:
        row = connection.execute(
            "select id from bloom.tasks where status = 'completed' order by seq limit 1"
        ).fetchone()
        assert row is not None
        task: str = row[0]
        alone: dict[str, float] = {}
        for path, query in _ASKED.items():
            took: list[float] = []
            for _ in range(rounds):
                began = time.monotonic()
                connection.execute(query, {"task": task, "status": path.partition("status=")[2]}).fetchall()
                took.append((time.monotonic() - began) * 1000)
            alone[path] = quantiles(took)["p50"]
    with stack.runtime(database=database) as runtime:
        figures = asyncio.run(_ask(runtime, task, alone, rounds))
    return Section("lists", f"(f) one page each; {stack.filled_words}", tuple(figures))


async def _ask(runtime: Runtime, task: str, alone: dict[str, float], rounds: int) -> list[Figure]:
    connection = await Connection.open(runtime.port, runtime.key)
    paths = [path.replace("{task}", task) for path in _ASKED]
    figures: list[Figure] = []
    for asked, path in zip(_ASKED, paths, strict=True):
        took: list[float] = []
        body = b""
        for n in range(WARM_UP + rounds):
            began = time.monotonic()
            body = await connection.get(path)
            if n >= WARM_UP:
                took.append((time.monotonic() - began) * 1000)
        rows = json.loads(body)
        assert rows or "active" in path, f"{path} is empty"
        told = quantiles(took)
        target = Target(20, at_most=True)
        figures.append(Figure(f"GET {asked}", told["p50"], "ms", alone[asked], target=target, took_ms=told))
    connection.close()
    return figures
