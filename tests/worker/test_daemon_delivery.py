"""What runs bring reaches the runtime: events in order, each report with one effect, through whatever outage."""

import asyncio
import json
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
    with_pace,
)

from bloom.worker.executors.interface import Emit, Report, RunEvent, RunTask, StopReason, StopSignal

pytestmark = pytest.mark.anyio


async def test_a_completion_whose_answer_was_lost_is_sent_again_with_one_effect(worker_directory: Path) -> None:
    executor = ScriptedExecutor(echo)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        runtime.script("complete", LOSE_ANSWER, LOSE_REQUEST, LOSE_ANSWER)
        async with daemon(options_for(runtime), executor):
            await runtime.until(lambda: len(runtime.bodies("complete")) == 4)
    sent = [body["completions"] for body in runtime.bodies("complete")]
    assert sent == [sent[0]] * 4
    assert (task.status, len(executor.tasks), spooled(worker_directory)) == ("completed", 1, [])


async def test_events_arrive_in_order_and_once_when_the_runtime_goes_and_comes_back(worker_directory: Path) -> None:
    half, rest = asyncio.Event(), asyncio.Event()

    async def talk(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        for number in range(50):
            await emit(RunEvent("text", {"text": str(number)}))
        half.set()
        await rest.wait()
        for number in range(50, 100):
            await emit(RunEvent("text", {"text": str(number)}))
        return success("said all")

    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        runtime.script("events", LOSE_ANSWER)
        async with daemon(options_for(runtime), ScriptedExecutor(talk)):
            await half.wait()
            await runtime.until(lambda: runtime.events)
            await runtime.down()
            rest.set()
            await runtime.up()
            await runtime.until(lambda: task.status == "completed")
    stored = runtime.events[task.leases[0]]
    assert [event["seq"] for event in stored] == list(range(1, 101))
    assert [event["data"]["text"] for event in stored] == [str(number) for number in range(100)]
    assert len([body for body in runtime.bodies("complete") if body["completions"][0]["status"] == "success"]) >= 1


async def test_a_run_ends_and_its_report_is_spooled_while_the_runtime_is_away(worker_directory: Path) -> None:
    go_on = asyncio.Event()

    async def wait_then_talk(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        await go_on.wait()
        await emit(RunEvent("text", {"text": "x" * 1000}))
        return success("made offline")

    executor = ScriptedExecutor(wait_then_talk)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        async with daemon(options_for(runtime, pace=with_pace(farewell_sec=0.01)), executor) as under_test:
            await executor.until(lambda: executor.running)
            await runtime.down()
            go_on.set()
            await executor.until(lambda: not executor.running)
            under_test.stopping.ask()
            await under_test.ended()
            assert spooled(worker_directory) == task.leases
            assert task.status == "leased" or task.status == "running"
        await runtime.up()
        async with daemon(options_for(runtime), ScriptedExecutor(run_until_stopped)):
            await runtime.until(lambda: task.status == "completed")
    assert task.completion is not None
    assert task.completion["output"] == "made offline"
    assert runtime.seqs(task) == [1]
    assert spooled(worker_directory) == []


async def test_a_hanging_events_route_stops_neither_extends_nor_claims(worker_directory: Path) -> None:
    stuck = asyncio.Event()

    async def talk(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        await emit(RunEvent("text", {"text": task.prompt}))
        await stop.event.wait()
        return success(task.prompt)

    executor = ScriptedExecutor(talk)
    async with fake_runtime() as runtime:
        runtime.script("events", Fault(hang=stuck))
        first = await runtime.add_task("first")
        async with daemon(options_for(runtime, slots=2), executor):
            await runtime.until(lambda: runtime.bodies("events"))
            second = await runtime.add_task("second")
            await runtime.until(lambda: len(runtime.bodies("extend")) >= 4)
            await runtime.until(lambda: second.leases and runtime.seqs(second) == [1])
            assert runtime.seqs(first) == []
            stuck.set()
            await runtime.until(lambda: runtime.seqs(first) == [1])


async def test_a_cancel_told_by_extend_stops_the_run_and_is_reported(worker_directory: Path) -> None:
    executor = ScriptedExecutor(run_until_stopped)
    async with fake_runtime() as runtime, daemon(options_for(runtime), executor):
        task = await runtime.add_task()
        await executor.until(lambda: executor.running)
        task.cancel = True
        await runtime.until(lambda: task.status == "cancelled")
        assert task.completion is not None
        assert (task.completion["status"], task.completion["code"]) == ("error", "cancelled")
    assert executor.stops[0].reason is StopReason.CANCELLED


async def test_a_cancel_told_in_the_answer_to_events_stops_the_run(worker_directory: Path) -> None:
    async def talk_until_stopped(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        await emit(RunEvent("text", {"text": "working"}))
        return await run_until_stopped(task, emit, stop)

    executor = ScriptedExecutor(talk_until_stopped)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        task.cancel = True
        async with daemon(options_for(runtime, pace=with_pace(extend_sec=60)), executor):
            await runtime.until(lambda: task.status == "cancelled")
    assert executor.stops[0].reason is StopReason.CANCELLED
    assert runtime.bodies("extend") == []


async def test_a_lost_lease_stops_the_run_and_nothing_is_reported(worker_directory: Path) -> None:
    executor = ScriptedExecutor(run_until_stopped)
    async with fake_runtime() as runtime, daemon(options_for(runtime), executor):
        task = await runtime.add_task()
        await executor.until(lambda: executor.running)
        task.status = "cancelled"
        runtime.lost.update(task.leases)
        after = await runtime.add_task("after")
        await executor.until(lambda: len(executor.tasks) == 2)
        assert spooled(worker_directory) == after.leases
        assert runtime.bodies("complete") == []
    assert executor.stops[0].reason is StopReason.LEASE_LOST


async def test_events_refused_for_a_lost_lease_stop_the_run_at_once(worker_directory: Path) -> None:
    async def talk_until_stopped(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        runtime.lost.update(runtime.tasks[task.task_id].leases)
        await emit(RunEvent("text", {"text": "too late"}))
        return await run_until_stopped(task, emit, stop)

    executor = ScriptedExecutor(talk_until_stopped)
    async with fake_runtime() as runtime:
        await runtime.add_task()
        async with daemon(options_for(runtime, pace=with_pace(extend_sec=60)), executor):
            await executor.until(lambda: executor.tasks and not executor.running)
    assert executor.stops[0].reason is StopReason.LEASE_LOST
    assert (len(runtime.bodies("events")), runtime.bodies("complete")) == (1, [])


async def test_a_report_that_comes_too_late_is_kept_aside(worker_directory: Path) -> None:
    async def finish_too_late(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        runtime.lost.update(runtime.tasks[task.task_id].leases)
        return success("worth keeping")

    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        async with daemon(options_for(runtime, pace=with_pace(extend_sec=60)), ScriptedExecutor(finish_too_late)):
            await runtime.until(lambda: runtime.bodies("complete"))
    kept = json.loads((worker_directory / "rejected" / f"{task.leases[0]}.json").read_text())
    assert (kept["outcome"], kept["completion"]["output"]) == ("lease_lost", "worth keeping")
    assert spooled(worker_directory) == []
    assert task.completion is None


@pytest.mark.parametrize("status", [200, 400, 413])
async def test_a_refused_report_becomes_an_error_that_says_so(worker_directory: Path, status: int) -> None:
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        if status == 200:
            runtime.refuse_completion = lambda item: "invalid" if item["status"] == "success" else None
        else:
            runtime.script("complete", Fault(status=status, code="invalid"))
        async with daemon(options_for(runtime), ScriptedExecutor(echo)):
            await runtime.until(lambda: task.status == "failed")
    assert task.completion is not None
    assert task.completion["code"] == "report_refused"
    assert len(runtime.bodies("complete")) == 2


async def test_characters_that_cannot_be_stored_are_replaced_and_counted(worker_directory: Path) -> None:
    async def say_nul(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        await emit(RunEvent("text", {"text": "a\x00b", "number": float("nan")}))
        return success("a\x00\ud800b")

    async with fake_runtime() as runtime, daemon(options_for(runtime), ScriptedExecutor(say_nul)):
        task = await runtime.add_task()
        await runtime.until(lambda: task.status == "completed")
        assert task.completion is not None
        assert (task.completion["output"], task.completion["metrics"]["replaced_characters"]) == ("a��b", 2)
        assert runtime.events[task.leases[0]][0]["data"] == {"text": "a�b", "number": None}


async def test_an_event_that_the_runtime_refuses_is_told_as_a_status_in_its_place(worker_directory: Path) -> None:
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        runtime.script("events", Fault(status=400, code="invalid"))
        async with daemon(options_for(runtime), ScriptedExecutor(echo)):
            await runtime.until(lambda: task.status == "completed")
    assert [(event["seq"], event["data"]["state"]) for event in runtime.events[task.leases[0]]] == [(1, "refused")]


async def test_an_executor_that_fails_itself_leaves_an_error_report(worker_directory: Path) -> None:
    async def fall(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        raise RuntimeError("a secret")

    async with fake_runtime() as runtime, daemon(options_for(runtime), ScriptedExecutor(fall)):
        task = await runtime.add_task()
        await runtime.until(lambda: task.completion)
        assert task.completion is not None
        assert (task.completion["code"], task.completion["retryable"]) == ("executor_failed", True)
        assert "secret" not in json.dumps(task.completion)


async def test_after_a_fault_of_its_own_the_worker_claims_nothing_for_a_while(worker_directory: Path) -> None:
    async def no_login(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        return Report("error", None, "log in first", "login", retryable=True, metrics={"duration_ms": 1})

    executor = ScriptedExecutor(no_login)
    async with fake_runtime() as runtime:
        first, second = await runtime.add_task(), await runtime.add_task()
        async with daemon(options_for(runtime), executor):
            await runtime.until(lambda: first.completion)
    assert (len(executor.tasks), second.leases) == (1, [])
