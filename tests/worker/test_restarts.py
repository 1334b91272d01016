"""The runtime and a worker are killed and started again, in every order, while tasks run: each has one result."""

from pathlib import Path

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Served, StartServed, told
from tests.real_worker import real_worker
from tests.runtime.invariants import check_invariants

pytestmark = pytest.mark.timeout(400)

TASKS_OF_ORDERS = {
    ("kill runtime", "start runtime"): 4,
    ("kill worker", "start worker"): 4,
    ("kill runtime", "kill worker", "start runtime", "start worker"): 3,
    ("kill runtime", "kill worker", "start worker", "start runtime"): 3,
    ("kill worker", "kill runtime", "start runtime", "start worker"): 3,
    ("kill worker", "kill runtime", "start worker", "start runtime"): 3,
}
SLOTS = 2


def test_killed_and_restarted_in_every_order_twenty_tasks_have_one_result_each(
    served: StartServed, tmp_path: Path, database: FreshDatabase
) -> None:
    runtime = served()
    with real_worker(runtime.url, tmp_path / "worker", slots=SLOTS, ttl_sec=5) as worker:
        actions = {
            "kill runtime": runtime.kill,
            "start runtime": runtime.start,
            "kill worker": worker.kill,
            "start worker": worker.start,
        }
        tasks: list[str] = []
        for order, count in TASKS_OF_ORDERS.items():
            batch = [create(runtime, f"hold {order} {number}") for number in range(count)]
            tasks += batch
            for task_id in batch[:SLOTS]:
                worker.until_run(task_id)
            # One of them ends at the moment of the first kill, the others after the last start.
            worker.let_go(batch[0])
            for action in order:
                actions[action]()
            for task_id in batch:
                worker.let_go(task_id)
            worker.until(lambda batch=batch: all(is_completed(runtime, task_id) for task_id in batch), str(order))
        for task_id in tasks:
            results = told(runtime.get(f"/llm-tasks/{task_id}/results"))
            successes = [result for result in results if result["status"] == "success" and not result.get("rejected")]
            assert len(successes) == 1, results
            assert task_id in worker.runs()
        worker.until(lambda: not worker.spooled(), "an empty spool")
    assert told(runtime.get("/stats"))["tasks"]["by_status"]["completed"] == len(tasks) == 20
    check_invariants(database)


def create(runtime: Served, prompt: str) -> str:
    """A new task, which may be tried often and at once."""
    return runtime.create(prompt=prompt, max_attempts=10, retry={"base_sec": 0, "max_sec": 0})["id"]


def is_completed(runtime: Served, task_id: str) -> bool:
    status = runtime.task(task_id)["status"]
    assert status in ("queued", "leased", "running", "completed"), status
    return status == "completed"
