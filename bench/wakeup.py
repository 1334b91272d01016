"""(c) How long a task that is posted to an idle fleet waits for its worker, on one machine."""

import asyncio
import json
import time
import uuid

from bench.figures import Figure, Section, Target
from bench.load.http import Connection, as_json
from bench.load.window import quantiles
from bench.plan import Plan
from bench.stack import Runtime, Stack

WARM_UP = 20
_P50, _P99 = Target(15, at_most=True), Target(60, at_most=True)
_INSERT = b"""with posted as (
    insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status)
    values (%s, 'bench', 'bench', 'go', 120, 0, 'text', 'queued'))
select pg_notify('bench', '')"""
_CLAIM = b"""update bloom.tasks set status = 'leased', lease_id = id, worker_id = 'bench', attempts = 1
where id = (select id from bloom.tasks where status = 'queued' and due order by priority desc, seq limit 1
            for update skip locked)"""


def wakeup(plan: Plan, stack: Stack) -> Section:
    """Milliseconds from the start of the POST to the end of the claim's answer, and to the child of a real worker.

    The limit is PostgreSQL's own way: insert with NOTIFY, commit, a listener wakes and takes the row, commit. The child is
    `date`, whose own start of a process (1 to 2 ms) is part of the figure.
    """
    rounds = 50 if plan.quick else 300
    stack.empty()
    alone = quantiles(_postgres_alone(stack, rounds))
    measured: dict[str, list[float]] = {}
    for processes, words in ((1, "one process"), (2, "two processes")):
        stack.empty()
        with stack.runtime(processes=processes) as runtime:
            measured[f"to the claim's answer, {words}"] = asyncio.run(_claims(runtime, rounds))
    stack.empty()
    with stack.runtime() as runtime, stack.worker(runtime, "bench", slots=1, command=["date", "+%s%N"]):
        starts = quantiles(asyncio.run(_worker_starts(runtime, rounds)))
    figures: list[Figure] = []
    for name, took in measured.items():
        told = quantiles(took)
        figures.append(Figure(f"{name}, p50", told["p50"], "ms", alone["p50"], target=_P50))
        figures.append(Figure(f"{name}, p99", told["p99"], "ms", alone["p99"], target=_P99))
    child = "to the worker's child"
    figures += [Figure(f"{child}, {name}", starts[name], "ms", alone[name]) for name in ("p50", "p99")]
    return Section("wakeup", "(c) wake-up of an idle fleet: from the POST on", tuple(figures))


async def _claims(runtime: Runtime, rounds: int) -> list[float]:
    """A claim waits on the server; each task is posted by a new connection, so by either process, and completed."""
    claimer = await Connection.open(runtime.port, runtime.key)
    await claimer.register("claimer", 1)
    took: list[float] = []
    for _ in range(WARM_UP + rounds):
        claim = as_json({"request_id": uuid.uuid4().hex, "slots": 1, "wait_sec": 30})
        waiting = asyncio.create_task(claimer.post("/workers/claimer/claim", claim, 200))
        poster = await Connection.open(runtime.port, runtime.key)
        await asyncio.sleep(0.03)  # until the claim waits on the server
        began = time.monotonic()
        posting = asyncio.create_task(_post(poster))
        (held,) = json.loads(await waiting)["leases"]
        took.append((time.monotonic() - began) * 1000)
        await posting
        poster.close()
        report = {"status": "success", "output": "", "metrics": {"duration_ms": 0}}
        ids = {"task_id": held["task"]["id"], "lease_id": held["lease"]["id"]}
        await claimer.post("/workers/claimer/complete", as_json({"completions": [{**report, **ids}]}), 200)
    claimer.close()
    return took[WARM_UP:]


async def _worker_starts(runtime: Runtime, rounds: int) -> list[float]:
    connection = await Connection.open(runtime.port, runtime.key)
    took: list[float] = []
    for _ in range(WARM_UP + rounds):
        sent = time.time_ns()
        task_id = await _post(connection)
        deadline = time.monotonic() + 30
        while not (results := json.loads(await connection.get(f"/llm-tasks/{task_id}/results"))):
            if time.monotonic() > deadline:
                raise TimeoutError("the worker did not run the task")
            await asyncio.sleep(0.01)
        took.append((int(results[0]["output"]) - sent) / 1e6)
        await asyncio.sleep(0.05)  # until the worker's next claim waits on the server
    connection.close()
    return took[WARM_UP:]


async def _post(connection: Connection) -> str:
    body = as_json({"context_id": uuid.uuid4().hex, "agent_slug": "bench", "prompt": "go"})
    return json.loads(await connection.post("/llm-tasks", body, 201))["id"]


def _postgres_alone(stack: Stack, rounds: int) -> list[float]:
    took: list[float] = []
    with stack.connect() as posting, stack.connect() as listening:
        listening.execute("listen bench")
        for _ in range(WARM_UP + rounds):
            began = time.monotonic()
            posting.execute(_INSERT, (uuid.uuid4().hex,))
            next(listening.notifies(timeout=30, stop_after=1))
            listening.execute(_CLAIM)
            took.append((time.monotonic() - began) * 1000)
    return took[WARM_UP:]
