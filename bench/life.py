"""(a) The whole life of a task by single HTTP calls, and (b) by the worker protocol, each beside PostgreSQL's limit."""

from functools import partial

from bench import limit
from bench.figures import Figure, Section, Target, compared_figure, plain_figure
from bench.plan import Plan
from bench.runs import Run, in_turn, load
from bench.stack import EMPTY, Stack

PROCESSES = {1: "one process", 2: "two processes"}
# Issue 4: by clients, of the limit by single transactions; of the limit by batches.
_LIFE_TARGETS = {16: Target(0.30, of_ratio=True), 64: Target(0.40, of_ratio=True)}
_PROTOCOL_TARGET = Target(0.50, of_ratio=True)
_MEMORY_TARGET = Target(200, at_most=True)


def life(plan: Plan, stack: Stack) -> Section:
    """Create (1 KB prompt), lease, heartbeat, complete (2 KB output), each a request; the limit does as many transactions."""
    figures: list[Figure] = []
    for clients in plan.clients:
        figures += _compare(stack, plan, "life", limit.SINGLE, clients)
        lean = one_limit(stack, limit.SINGLE, clients=clients, seconds=plan.seconds, database=stack.lean())
        figures.append(plain_figure(f"{clients} clients: limit without other indexes", lean))
    return Section("life", "(a) whole life by single HTTP calls", (*figures, _memory(figures)))


def protocol(plan: Plan, stack: Stack) -> Section:
    """Batches of 100 created, claims of up to 32 slots, extend, batch completion; the limit does batches of 100."""
    figures = [figure for clients in plan.clients for figure in _compare(stack, plan, "protocol", limit.BATCH, clients)]
    return Section("protocol", "(b) whole life by the worker protocol", (*figures, _memory(figures)))


def one_run(stack: Stack, name: str, *, clients: int, seconds: float, processes: int) -> Run:
    """A fresh runtime on empty tables under the load `name`."""
    stack.empty()
    with stack.runtime(processes=processes) as runtime:
        return load(stack, runtime, name, clients=clients, seconds=seconds)


def one_limit(stack: Stack, script: str, *, clients: int, seconds: float, database: str = EMPTY) -> Run:
    """The limit on empty tables, while no runtime runs."""
    stack.empty(database)
    return limit.measure(stack, script, clients=clients, seconds=seconds, database=database)


def _compare(stack: Stack, plan: Plan, name: str, script: str, clients: int) -> list[Figure]:
    reached, runs = in_turn(
        partial(one_limit, stack, script, clients=clients, seconds=plan.seconds),
        {
            words: partial(one_run, stack, name, clients=clients, seconds=plan.seconds, processes=processes)
            for processes, words in PROCESSES.items()
        },
        rounds=plan.rounds,
    )
    # The target is for the machine, not for the process: the better of the two is judged by it, both are shown.
    best = max(runs, key=lambda words: runs[words].ratio)
    target = _PROTOCOL_TARGET if name == "protocol" else _LIFE_TARGETS.get(clients)
    return [
        plain_figure(f"{clients} clients: PostgreSQL's limit", reached),
        *(
            compared_figure(f"{clients} clients, {words}", compared, reached, target if words == best else None)
            for words, compared in runs.items()
        ),
    ]


def _memory(figures: list[Figure]) -> Figure:
    most = max(figure.server_mib for figure in figures if figure.server_mib is not None)
    return Figure("most memory of one server process", most, "MiB", target=_MEMORY_TARGET)
