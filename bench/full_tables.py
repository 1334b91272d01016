"""(d) The same as (a) and (b) on tables that are full, beside the same on empty ones."""

from functools import partial

from bench import limit
from bench.figures import Figure, Section, Target, compared_figure, plain_figure
from bench.life import one_run
from bench.plan import Plan
from bench.runs import Run, in_turn, load
from bench.stack import Stack

# As `make up` starts it on two cores.
PROCESSES = 2


def full_tables(plan: Plan, stack: Stack) -> Section:
    """Ratios are to the runs on empty tables before and after each; PostgreSQL's limit on the full ones explains them."""
    database = stack.filled(quick=plan.quick)
    figures: list[Figure] = []
    for name, script, words in (("life", limit.SINGLE, "single calls"), ("protocol", limit.BATCH, "worker protocol")):
        for clients in plan.clients:
            common = {"clients": clients, "seconds": plan.seconds}
            empty, runs = in_turn(
                partial(one_run, stack, name, processes=PROCESSES, **common),
                {
                    "full": partial(_on_full, stack, database, name, **common),
                    "limit": partial(limit.measure, stack, script, database=database, **common),
                },
                rounds=plan.rounds,
            )
            target = Target(0.9, of_ratio=True)
            figures += [
                plain_figure(f"{words}, {clients} clients, empty tables", empty),
                compared_figure(f"{words}, {clients} clients, full tables", runs["full"], empty, target),
                plain_figure(f"{words}, {clients} clients: limit, full tables", runs["limit"].run),
            ]
    return Section(
        "full", f"(d) {stack.filled_words}, two processes; 'limit' is the same on empty tables", tuple(figures)
    )


def _on_full(stack: Stack, database: str, name: str, *, clients: int, seconds: float) -> Run:
    with stack.runtime(processes=PROCESSES, database=database) as runtime:
        return load(stack, runtime, name, clients=clients, seconds=seconds)
