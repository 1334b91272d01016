"""How the daemon gets its tasks: one lease, one run, never more than its slots, whatever gets lost on the way."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests.stubs.runtime import LOSE_ANSWER, LOSE_REQUEST, Fault, fake_runtime
from worker_daemon import (
    ScriptedExecutor,
    daemon,
    echo,
    options_for,
    run_until_stopped,
    spooled,
    success,
)

from bloom.worker.executors.interface import Emit, Report, RunTask, StopSignal

pytestmark = pytest.mark.anyio


async def test_a_task_is_claimed_run_and_completed(worker_directory: Path) -> None:
    executor = ScriptedExecutor(echo)
    async with fake_runtime() as runtime, daemon(options_for(runtime), executor):
        task = await runtime.add_task("say hello")
        await runtime.until(lambda: task.status == "completed")
        assert task.completion is not None
        assert (task.completion["output"], task.completion["metrics"]["tokens_used"]) == ("say hello", None)
        assert [event["data"] for event in runtime.events[task.leases[0]]] == [{"text": "say hello"}]
    assert [run.prompt for run in executor.tasks] == ["say hello"]
    assert spooled(worker_directory) == []


async def test_a_lost_answer_is_asked_for_under_the_same_request_id_and_runs_once(worker_directory: Path) -> None:
    executor = ScriptedExecutor(echo)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        runtime.script("claim", LOSE_ANSWER, LOSE_ANSWER)
        async with daemon(options_for(runtime), executor):
            await runtime.until(lambda: task.status == "completed")
    asked = [body["request_id"] for body in runtime.bodies("claim")]
    assert (len(set(asked[:3])), len(task.leases), len(executor.tasks)) == (1, 1, 1)


async def test_a_lease_in_a_late_answer_that_is_not_active_any_more_is_ignored(worker_directory: Path) -> None:
    executor = ScriptedExecutor(echo)
    async with fake_runtime() as runtime:
        gone = await runtime.add_task("gone")
        answering = asyncio.Event()
        runtime.script("claim", LOSE_ANSWER, Fault(status=503, hang=answering))
        async with daemon(options_for(runtime), executor):
            await runtime.until(lambda: len(runtime.bodies("claim")) == 2)
            gone.status = "cancelled"
            answering.set()
            task = await runtime.add_task("next")
            await runtime.until(lambda: task.status == "completed")
    assert [run.prompt for run in executor.tasks] == ["next"]


async def test_slots_are_never_exceeded_and_a_freed_one_is_filled_at_once(worker_directory: Path) -> None:
    tasks_done = asyncio.Semaphore(0)

    async def when_told(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        await tasks_done.acquire()
        return success("done")

    executor = ScriptedExecutor(when_told)
    async with fake_runtime() as runtime:
        tasks = [await runtime.add_task() for _ in range(5)]
        async with daemon(options_for(runtime, slots=2), executor):
            for ran in range(2, 6):
                await executor.until(lambda ran=ran: len(executor.tasks) == ran and executor.running == 2)
                tasks_done.release()
            tasks_done.release()
            await runtime.until(lambda: all(task.status == "completed" for task in tasks))
    assert executor.most_running == 2
    assert len(executor.tasks) == 5


async def test_leases_beyond_the_slots_are_handed_back(worker_directory: Path) -> None:
    executor = ScriptedExecutor(run_until_stopped)
    async with fake_runtime() as runtime:
        first, second = await runtime.add_task("first"), await runtime.add_task("second")
        runtime.slots_too_many = 1
        async with daemon(options_for(runtime), executor):
            await runtime.until(lambda: second.completion)
            assert (second.status, second.attempts) == ("queued", 0)
            assert first.status != "completed"
    assert [run.prompt for run in executor.tasks] == ["first"]


async def test_a_worker_that_the_runtime_forgot_registers_again(worker_directory: Path) -> None:
    executor = ScriptedExecutor(echo)
    async with fake_runtime() as runtime, daemon(options_for(runtime), executor):
        await runtime.until(lambda: runtime.bodies("claim"))
        runtime.workers.clear()
        runtime.script("claim", LOSE_REQUEST)
        await runtime.down()
        await runtime.up()
        task = await runtime.add_task()
        await runtime.until(lambda: task.status == "completed")
        assert runtime.workers["w1"]["capabilities"] == {"claude_cli": False, "max_concurrency": 1}


async def test_a_full_queue_is_waited_out_as_long_as_the_runtime_asks(worker_directory: Path) -> None:
    executor = ScriptedExecutor(echo)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        runtime.script("register", Fault(status=503, retry_after=0))
        runtime.script(
            "claim", Fault(status=429, code="rate_limited", retry_after=0), Fault(status=401, code="unauthorized")
        )
        async with daemon(options_for(runtime), executor):
            await runtime.until(lambda: task.status == "completed")
    assert len(runtime.bodies("register")) == 3  # refused, accepted, and offline at the end


async def test_a_lease_granted_while_the_daemon_stops_is_handed_back(worker_directory: Path) -> None:
    executor = ScriptedExecutor(echo)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        runtime.script("claim", Fault(effect=True, hang=asyncio.Event()))
        async with daemon(options_for(runtime), executor) as under_test:
            await runtime.until(lambda: task.leases)
            under_test.stopping.ask()
            await under_test.ended()
    assert (task.status, task.attempts, executor.tasks) == ("queued", 0, [])
    assert runtime.workers["w1"]["status"] == "offline"


async def test_labels_and_the_claude_cli_are_told_as_they_are(worker_directory: Path) -> None:
    async with fake_runtime() as runtime:
        options = replace(options_for(runtime), labels=("gpu", "big"), executor="claude")
        async with daemon(options, ScriptedExecutor(echo)):
            await runtime.until(lambda: runtime.bodies("claim"))
        assert runtime.workers["w1"]["capabilities"] == {
            "claude_cli": True,
            "max_concurrency": 1,
            "labels": ["gpu", "big"],
        }
