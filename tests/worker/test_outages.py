"""The network between a real worker and a real runtime is cut at every stage of a run: one run, one result."""

from collections.abc import Generator
from pathlib import Path
from typing import Any, get_args

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, told
from tests.real_worker import RealWorker, real_worker
from tests.runtime.invariants import check_invariants
from tests.stubs.cutting_proxy import CuttingProxy, Moment, cutting_proxy


@pytest.fixture
def runtime(start_replica: StartReplica) -> Replica:
    """The real runtime, which here does nothing by the clock."""
    return start_replica()


@pytest.fixture
def proxy(runtime: Replica) -> Generator[CuttingProxy]:
    with cutting_proxy(runtime.url) as made:
        yield made


@pytest.fixture
def worker(proxy: CuttingProxy, tmp_path: Path) -> Generator[RealWorker]:
    with real_worker(proxy.url, tmp_path / "worker") as made:
        yield made


def until_final(runtime: Replica, worker: RealWorker, task_id: str) -> dict[str, Any]:
    """The task, once it has ended."""
    final = ("completed", "failed", "dead", "cancelled")
    worker.until(lambda: runtime.task(task_id)["status"] in final, f"the end of {task_id}")
    return runtime.task(task_id)


def text_of(runtime: Replica, task_id: str) -> str:
    """The text that the events of a task tell."""
    events: list[dict[str, Any]] = told(runtime.get(f"/llm-tasks/{task_id}/events"))
    return "".join(event["data"]["text"] for event in events if event["type"] == "text")


STAGES = [(call, moment) for call in ("claim", "extend", "events", "complete") for moment in get_args(Moment)]


def test_cut_at_every_stage_of_a_run_there_is_one_run_and_one_result(
    runtime: Replica, proxy: CuttingProxy, worker: RealWorker, database: FreshDatabase
) -> None:
    proxy.until_called("claim")
    for call, moment in STAGES:
        if call == "claim":  # the one that is to be answered with the task, not the one under way
            proxy.cut(call, moment)
            proxy.until_cut()
        proxy.cut(call, moment, times=1 if call == "claim" else 2)
        prompt = f"hold {call}, lose {moment}: " + "x" * 1000
        task_id = runtime.create(prompt=prompt)["id"]
        worker.until_run(task_id)
        if call != "complete":
            proxy.until_cut()
        worker.let_go(task_id)
        task = until_final(runtime, worker, task_id)
        proxy.until_cut()
        assert (task["status"], task["attempts"]) == ("completed", 1), (call, moment, worker.log())
        (result,) = told(runtime.get(f"/llm-tasks/{task_id}/results"))
        assert (result["status"], result["output"]) == ("success", prompt)
        assert worker.runs().count(task_id) == 1, (call, moment)
        assert text_of(runtime, task_id) == prompt
    worker.until(lambda: not worker.spooled(), "an empty spool")
    assert worker.rejected() == []
    assert len(worker.runs()) == len(STAGES)
    check_invariants(database)


def away(runtime: Replica, proxy: CuttingProxy, worker: RealWorker, database: FreshDatabase) -> tuple[str, str]:
    """A task whose run comes to its end while the runtime is away, for longer than its lease; and that lease."""
    task_id: str = runtime.create(prompt="hold made offline")["id"]
    worker.until_run(task_id)
    proxy.until_called("extend")
    proxy.down()
    worker.let_go(task_id)
    lease_id: str = runtime.task(task_id)["lease_id"]
    report = Path(worker.directory, "spool", lease_id, "report.json")
    worker.until(report.exists, "a spooled report")
    database.expire(lease_id)
    return task_id, lease_id


def test_work_that_was_finished_while_the_runtime_was_away_is_accepted_if_its_lease_is_still_its_own(
    runtime: Replica, proxy: CuttingProxy, worker: RealWorker, database: FreshDatabase
) -> None:
    task_id, _ = away(runtime, proxy, worker, database)
    proxy.up()
    assert until_final(runtime, worker, task_id)["status"] == "completed"
    assert worker.runs() == [task_id]
    check_invariants(database)


def test_work_that_comes_after_its_lease_was_given_to_another_is_kept_as_a_rejected_result(
    runtime: Replica, proxy: CuttingProxy, worker: RealWorker, database: FreshDatabase
) -> None:
    task_id, lease_id = away(runtime, proxy, worker, database)
    assert runtime.reap() == [task_id]
    runtime.register("other")
    other = runtime.lease(task_id, "other")
    proxy.up()
    worker.until(lambda: worker.rejected() == [lease_id], "a rejected report")
    told(runtime.complete(task_id, other["id"], output="made by another"))
    results = told(runtime.get(f"/llm-tasks/{task_id}/results"))
    told_apart = {result.get("rejected", False): (result["output"], result["lease_id"]) for result in results}
    assert told_apart == {False: ("made by another", other["id"]), True: ("hold made offline", lease_id)}
    assert len(results) == 2
    worker.until(lambda: not worker.spooled(), "an empty spool")
    check_invariants(database)


@pytest.mark.parametrize("ttl_sec", [2])
def test_a_child_does_not_outlive_its_lease_while_the_runtime_is_away(
    runtime: Replica, proxy: CuttingProxy, tmp_path: Path, database: FreshDatabase, ttl_sec: int
) -> None:
    with real_worker(proxy.url, tmp_path / "worker", ttl_sec=ttl_sec) as worker:
        task_id = runtime.create(prompt="hold for ever", retry={"base_sec": 0, "max_sec": 0})["id"]
        worker.until_run(task_id)
        proxy.down()
        lease_id = runtime.task(task_id)["lease_id"]
        report = Path(worker.directory, "spool", lease_id, "report.json")
        worker.until(report.exists, "the end of the run")
        assert '"code":"interrupted"' in report.read_text()
        proxy.up()
        worker.until_run(task_id, times=2)
        worker.let_go(task_id)
        assert until_final(runtime, worker, task_id)["status"] == "completed"
    check_invariants(database)


def test_leases_are_extended_while_a_child_burns_every_core(
    runtime: Replica, proxy: CuttingProxy, tmp_path: Path
) -> None:
    with real_worker(proxy.url, tmp_path / "worker", ttl_sec=6) as worker:
        task_id = runtime.create(prompt="hold and burn")["id"]
        worker.until_run(task_id)
        proxy.until_called("extend", times=25)
        worker.let_go(task_id)
        task = until_final(runtime, worker, task_id)
    assert (task["status"], task["attempts"], worker.runs()) == ("completed", 1, [task_id])
