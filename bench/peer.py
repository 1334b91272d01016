"""(h) `procrastinate`, a queue in PostgreSQL that is a library, not a server, on the same PostgreSQL and machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec

from bench.figures import Figure, Section, compared_figure, plain_figure
from bench.filling import fill_queue
from bench.payload import PROMPT
from bench.plan import Plan
from bench.runs import Run, generate, in_turn, load
from bench.stack import Stack
from bench.usage import ProcessTree, cores_between, read

CLIENTS = 16
PROCESSES = 2
"""Worker processes of the peer, and processes of our runtime."""

_DATABASE = "peer"
_MODULE = ("-m", "bench.load", "peer")
_START_SEC = 3


def peer(plan: Plan, stack: Stack) -> Section:
    """Its client library talks to PostgreSQL directly; ours is asked over HTTP. The ratio is ours to the peer's."""
    title = "(h) beside procrastinate; 'limit' is the peer"
    if find_spec("procrastinate") is None:
        return Section("peer", title, (), ("procrastinate is not installed; `make bench` installs it.",))
    stack.create_database(_DATABASE)
    environment = stack.client_environment(_DATABASE)
    if _start("schema", environment).wait(timeout=60) != 0:
        raise RuntimeError("the peer could not make its tables")
    pairs = {
        "enqueue singly": (
            partial(_peer_load, stack, plan, environment, "enqueue"),
            partial(_ours, stack, plan, "create"),
        ),
        "enqueue in batches of 100": (
            partial(_peer_load, stack, plan, environment, "bulk"),
            partial(_ours, stack, plan, "create_batch"),
        ),
        "work off a full queue": (
            partial(_peer_work, stack, plan, environment),
            partial(_ours, stack, plan, "work"),
        ),
    }
    figures: list[Figure] = []
    for what, (theirs, ours) in pairs.items():
        reached, runs = in_turn(theirs, {"ours": ours}, rounds=1 if plan.quick else plan.rounds)
        figures.append(plain_figure(f"{what}: procrastinate", reached))
        figures.append(compared_figure(f"{what}: ours", runs["ours"], reached))
    return Section("peer", title, tuple(figures))


def _queue(plan: Plan) -> int:
    """More than anybody works off within a run and its warm-up."""
    return round(8_000 * (plan.seconds + _START_SEC))


def _ours(stack: Stack, plan: Plan, name: str) -> Run:
    stack.empty()
    if name == "work":
        with stack.connect() as connection:
            fill_queue(connection, _queue(plan))
            connection.execute("vacuum (analyze)")
    with stack.runtime(processes=PROCESSES) as runtime:
        return load(stack, runtime, name, clients=CLIENTS, seconds=plan.seconds)


def _peer_load(stack: Stack, plan: Plan, environment: Mapping[str, str], name: str) -> Run:
    _empty(stack)
    load_options = {"clients": CLIENTS, "warm_up_sec": 2, "seconds": plan.seconds}
    return generate(
        _MODULE, {"name": name, "options": load_options}, {"PostgreSQL": stack.postgres}, environment=environment
    )


def _peer_work(stack: Stack, plan: Plan, environment: Mapping[str, str]) -> Run:
    """Its workers work off a queue; what is done is counted in its table."""
    _empty(stack)
    with ExitStack() as ending, stack.connect(_DATABASE) as connection:
        connection.execute(
            b"insert into procrastinate_jobs (queue_name, task_name, args) "
            b"select 'default', 'bench', %s::jsonb from generate_series(1, %s)",
            (json.dumps({"prompt": PROMPT}), _queue(plan)),
        )
        connection.execute("vacuum (analyze)")
        trees = {"PostgreSQL": stack.postgres}
        for n in range(PROCESSES):
            worker = _start("work", environment)
            ending.callback(_end, worker)
            trees[f"peer {n}"] = ProcessTree(worker.pid)
        time.sleep(_START_SEC)
        before, done = read(trees), stack.number(connection, _DONE)
        time.sleep(plan.seconds)
        after, done = read(trees), stack.number(connection, _DONE) - done
        if stack.number(connection, _LEFT) == 0:
            raise RuntimeError("the peer's queue ran dry within the window: it was filled too little")
    cores = cores_between(before, after)
    cores["generator"] = sum(cores.pop(f"peer {n}") for n in range(PROCESSES))
    return Run(done / (after.at - before.at), cores)


_DONE = "select count(*) from procrastinate_jobs where status = 'succeeded'"
_LEFT = "select count(*) from procrastinate_jobs where status = 'todo'"


def _empty(stack: Stack) -> None:
    with stack.connect(_DATABASE) as connection:
        connection.execute("truncate procrastinate_jobs cascade")
        connection.execute("checkpoint")


def _start(name: str, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, *_MODULE], stdin=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdin is not None
    with process.stdin:
        json.dump({"name": name, "options": {}}, process.stdin)
    return process


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
