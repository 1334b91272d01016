"""The runtime is away for an hour, on a clock that leaps: what runs is stopped in time, what was finished arrives."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pytest
from tests.stubs.leaping import LeapingLoop

from bloom.client import RuntimeUnreachable
from bloom.tasks.schemas import AppendAnswer, CompleteBatchAnswer, CompletionOutcome, ExtendAnswer, UploadAnswer
from bloom.worker.delivery import Delivery
from bloom.worker.executors.interface import RunTask, StopReason
from bloom.worker.keeping import Keeping, margin_sec
from bloom.worker.options import Pace
from bloom.worker.rejected import Rejected
from bloom.worker.runs import Run, Runs
from bloom.worker.spool import RunEntry, Spool

pytestmark = pytest.mark.anyio

P = ParamSpec("P")
T = TypeVar("T")

HOUR = 3600.0
TTL_SEC = 60


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    return "asyncio", {"loop_factory": LeapingLoop}


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock would leap while a thread looks at the disk."""

    async def at_once(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return work(*args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", at_once)


def now() -> float:
    return asyncio.get_running_loop().time()


class AwayForAnHour:
    """A runtime that nobody reaches before an hour has passed; `outcomes` is what it then says to the reports of leases."""

    def __init__(self, outcomes: dict[str, str]) -> None:
        self._back_at = now() + HOUR
        self._outcomes = outcomes
        self.tries = 0
        self.reports: list[dict[str, Any]] = []

    def _answer(self) -> None:
        self.tries += 1
        if now() < self._back_at:
            raise RuntimeUnreachable("away")

    async def extend(self, lease_ids: Sequence[str], timeout_sec: float) -> ExtendAnswer:
        self._answer()
        return ExtendAnswer(leases=[])

    async def append(self, task_id: str, lease_id: str, events: Sequence[dict[str, Any]]) -> AppendAnswer:
        self._answer()
        return AppendAnswer(accepted=len(events), next_seq=events[-1]["seq"] + 1, cancel=False)

    async def complete(self, worker_id: str, completions: Sequence[dict[str, Any]]) -> CompleteBatchAnswer:
        self._answer()
        self.reports += completions
        answers = [
            CompletionOutcome(task_id=c["task_id"], lease_id=c["lease_id"], outcome=self._outcomes[c["lease_id"]])
            for c in completions
        ]
        return CompleteBatchAnswer(completions=answers)


async def no_upload(*_: object) -> UploadAnswer:
    raise AssertionError("these outputs are small")


def report_of(lease_id: str, output: str) -> dict[str, Any]:
    return {"task_id": "task", "lease_id": lease_id, "status": "success", "output": output, "code": None}


async def test_what_runs_is_stopped_in_time_and_what_was_finished_arrives_after_the_hour(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    runtime = AwayForAnHour({"in time": "ok", "too late": "lease_lost"})
    runs = Runs(3)
    pace = Pace()
    keeping = Keeping(runs, runtime.extend, pace, now)
    rejected = Rejected(tmp_path / "rejected")
    delivery = Delivery(runs, runtime.append, no_upload, runtime.complete, rejected, pace)
    began = now()

    def grant(lease_id: str) -> Run:
        spooled = spool.open_run(RunEntry("task", lease_id, "w1"))
        run = Run(spooled, RunTask("task", lease_id, "c", "a", "p"), TTL_SEC)
        runs.add(run)
        keeping.granted(run, began)
        return run

    finished = {lease_id: grant(lease_id) for lease_id in ("in time", "too late")}
    for lease_id, run in finished.items():
        run.spooled.append("text", {"text": lease_id}, 7)
        run.spooled.write_report(report_of(lease_id, f"made {lease_id}"), 8)
        run.has_report = True
        run.reported.set()
    running = grant("running")
    loops = [
        asyncio.create_task(work)
        for work in (
            keeping.extend_forever(),
            keeping.watch_forever(),
            delivery.complete_forever(),
            *(delivery.follow(run) for run in finished.values()),
        )
    ]
    await running.stop.event.wait()
    assert running.stop.reason is StopReason.LEASE_LOST
    assert now() <= began + TTL_SEC - margin_sec(TTL_SEC)
    await runs.until(lambda: len(runs) == 1)
    assert began + HOUR <= now() < began + HOUR + 2 * pace.retry_max_sec
    assert sorted(report["output"] for report in runtime.reports) == ["made in time", "made too late"]
    assert [path.stem for path in (tmp_path / "rejected").iterdir()] == [finished["too late"].spooled.name]
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [running.spooled.name]
    assert runtime.tries < 2000  # an outage is no reason to hammer
    for loop in loops:
        loop.cancel()
    await asyncio.wait(loops)
    running.spooled.close()
