"""(j) A fleet of 10,000 workers on two replicas while 200 tasks a second flow."""

from dataclasses import replace

from bench.figures import Figure, Section, Target
from bench.idle import allow_open_files
from bench.plan import Plan
from bench.runs import generate
from bench.stack import Stack
from bloom.worker.options import Pace

WORKERS = 10_000
TASKS_PER_SEC = 200
_KIB = 1024


def scale(plan: Plan, stack: Stack) -> Section:
    """Wake-up is from the POST to the end of the claim's answer. A tenth of the fleet for a quick look."""
    workers = WORKERS // 10 if plan.quick else WORKERS
    allow_open_files(2 * workers + 500)
    stack.empty()
    room = {"BLOOM_MAX_CONNECTIONS": str(2 * WORKERS), "BLOOM_MAX_CONNECTIONS_PER_ADDRESS": str(2 * WORKERS)}
    with stack.runtime(settings=room) as one, stack.runtime(settings=room) as other:
        alone_mib = one.tree.now_mib() + other.tree.now_mib()
        options = {
            "ports": [one.port, other.port],
            "key": one.key,
            "workers": workers,
            "tasks_per_sec": TASKS_PER_SEC,
            # All polls have begun, and those that had nothing have ended once.
            "warm_up_sec": 15 if plan.quick else 10 + Pace().wait_sec,
            "seconds": max(plan.seconds, 5 if plan.quick else 30),
        }
        trees = {"server": one.tree, "server 2": other.tree, "PostgreSQL": stack.postgres}
        probes = {"server_mib": lambda: one.tree.now_mib() + other.tree.now_mib()}
        run = generate(["-m", "bench.load", "scale"], options, trees, probes=probes)
        with stack.connect() as asking:
            undone = stack.number(asking, "select count(*) from bloom.tasks where status <> 'completed'")
    cores = {name: used for name, used in run.cores.items() if name != "server 2"}
    cores["server"] += run.cores["server 2"]
    run = replace(run, cores=cores)
    per_worker_kib = (run.probed["server_mib"][1] - alone_mib) * _KIB / workers
    return Section(
        "scale",
        f"(j) {workers:,} connected workers on two replicas, {TASKS_PER_SEC} tasks a second",
        (
            Figure(
                "tasks that got a worker", run.per_sec, "per s", target=Target(0.98 * TASKS_PER_SEC), cores=run.cores
            ),
            Figure("wake-up, p50", run.took_ms["p50"], "ms"),
            Figure("wake-up, p99", run.took_ms["p99"], "ms", target=Target(250, at_most=True)),
            Figure("the longest wait", run.took_ms["most"], "ms"),
            Figure("tasks that were not completed in the end", undone, "", target=Target(0, at_most=True)),
            Figure("longest delay of an empty answer", run.told["late_ms"], "ms"),
            Figure("workers that got a task", run.told["busy"], ""),
            Figure("most tasks of one worker", run.told["most"], ""),
            Figure("claims told to come back later", run.told["put_off"], ""),
            Figure("memory of the servers for each worker", per_worker_kib, "KiB"),
        ),
    )
