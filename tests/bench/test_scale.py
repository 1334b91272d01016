"""The short form of `make test-scale`: a fleet on two replicas, larger than one in which all are woken by each task."""

from bench.runs import generate
from bench.stack import Stack

from bloom.tasks.service.waiting import FEW

WORKERS = 3 * FEW
TASKS_PER_SEC = 40
WAIT_SEC = 4


def test_no_task_starves_while_a_fleet_waits_on_two_replicas() -> None:
    with Stack() as stack, stack.runtime() as one, stack.runtime() as other:
        options = {
            "ports": [one.port, other.port],
            "key": one.key,
            "workers": WORKERS,
            "tasks_per_sec": TASKS_PER_SEC,
            "warm_up_sec": WAIT_SEC,
            "seconds": WAIT_SEC,
            "wait_sec": WAIT_SEC,
        }
        run = generate(["-m", "bench.load", "scale"], options, {"server": one.tree, "server 2": other.tree})
        with stack.connect() as connection:
            created = stack.number(connection, "select count(*) from bloom.tasks")
            completed = stack.number(connection, "select count(*) from bloom.tasks where status = 'completed'")
            workers = stack.number(connection, "select count(distinct worker_id) from bloom.leases")
    assert created == completed > 0
    assert run.per_sec > 0 and run.told["put_off"] == 0
    # The one that has waited longest comes first, so that the tasks do not all go to the same few.
    assert workers > min(created, WORKERS) / 3
