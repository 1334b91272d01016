"""How a daemon ends: what runs may go on for a grace, or is handed back; nothing is lost."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.stubs.runtime import fake_runtime
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

from bloom.base.errors import ConfigurationError
from bloom.worker.executors.interface import Emit, Report, RunTask, StopReason, StopSignal
from bloom.worker.sole import sole_daemon
from bloom.worker.spool import RunEntry, Spool
from bloom.worker.stopping import stop_with_parent, stopping_on_signals

pytestmark = pytest.mark.anyio


async def test_an_idle_daemon_stops_at_once(worker_directory: Path) -> None:
    async with fake_runtime() as runtime:
        async with daemon(options_for(runtime, grace_sec=30), ScriptedExecutor(echo)) as under_test:
            await runtime.until(lambda: runtime.bodies("claim"))
            under_test.stopping.ask()
            await under_test.ended()
        polls = runtime.bodies("claim")
    assert [poll["wait_sec"] for poll in polls] == [45, 0]
    assert polls[0]["request_id"] == polls[1]["request_id"]


async def test_a_run_may_end_within_the_grace(worker_directory: Path) -> None:
    go_on = asyncio.Event()

    async def wait(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        await go_on.wait()
        return success("in time")

    executor = ScriptedExecutor(wait)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        async with daemon(options_for(runtime, slots=2, grace_sec=30), executor) as under_test:
            await executor.until(lambda: executor.running)
            under_test.stopping.ask()
            await runtime.until(lambda: runtime.bodies("claim")[-1]["wait_sec"] == 0)
            extended = len(runtime.bodies("extend"))
            await runtime.until(lambda: len(runtime.bodies("extend")) > extended)
            go_on.set()
            await under_test.ended()
    assert task.status == "completed"


async def test_asked_twice_it_hands_back_what_runs(worker_directory: Path) -> None:
    executor = ScriptedExecutor(run_until_stopped)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        async with daemon(options_for(runtime, slots=2, grace_sec=3600), executor) as under_test:
            await executor.until(lambda: executor.running)
            under_test.stopping.ask()
            await runtime.until(lambda: runtime.bodies("claim")[-1]["wait_sec"] == 0)
            assert executor.running
            under_test.stopping.ask()
            await under_test.ended()
    assert executor.stops[0].reason is StopReason.SHUTDOWN
    assert (task.status, task.attempts) == ("queued", 0)
    assert task.completion is not None
    assert (task.completion["code"], task.completion["hand_back"]) == ("interrupted", True)


@pytest.mark.parametrize("first, second", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
async def test_one_signal_asks_to_stop_and_two_to_stop_at_once(first: int, second: int) -> None:
    with stopping_on_signals() as told:
        os.kill(os.getpid(), first)
        await told.asked.wait()
        assert not told.at_once.is_set()
        os.kill(os.getpid(), second)
        await told.at_once.wait()


async def test_a_run_that_outlives_the_grace_is_handed_back(worker_directory: Path) -> None:
    executor = ScriptedExecutor(run_until_stopped)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        async with daemon(options_for(runtime, grace_sec=0.01), executor) as under_test:
            await executor.until(lambda: executor.running)
            under_test.stopping.ask()
            await under_test.ended()
    assert (task.status, task.attempts) == ("queued", 0)


async def test_the_end_of_the_parent_hands_back_at_once() -> None:
    reading, writing = os.pipe()
    with stopping_on_signals() as told:
        watching = asyncio.create_task(stop_with_parent(reading, told))
        os.close(writing)
        await watching
    assert told.at_once.is_set()


async def test_a_daemon_stops_while_the_runtime_was_never_reached(worker_directory: Path) -> None:
    async with fake_runtime() as runtime:
        options = options_for(runtime, pace=with_pace(retry_first_sec=30, retry_max_sec=30))
        await runtime.down()
        async with daemon(options, ScriptedExecutor(echo)) as under_test:
            under_test.stopping.ask()
            await under_test.ended()


async def test_what_a_killed_daemon_left_without_a_report_is_handed_back_and_its_processes_end(
    worker_directory: Path,
) -> None:
    async with fake_runtime(20) as runtime:  # all processes of the machine are looked at
        task = await runtime.add_task()
        task.leases.append("left")
        task.status, task.attempts = "running", 1
        runtime.workers["w1"] = {"capabilities": {"max_concurrency": 1}}
        left = Spool(worker_directory / "spool").open_run(RunEntry(task.id, "left", "w1"))
        left.append("text", {"text": "half"}, 1)
        left.close()
        (worker_directory / "spool" / "torn").mkdir()
        (worker_directory / "spool" / "torn" / "task.json").write_text('{"task_id": "')
        stray = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "input()", stdin=subprocess.PIPE, env={"BLOOM_LEASE_ID": "left"}
        )
        executor = ScriptedExecutor(echo)
        async with daemon(options_for(runtime), executor):
            await runtime.until(lambda: task.status == "completed")
        assert await stray.wait() == -signal.SIGKILL
    first = runtime.bodies("complete")[0]["completions"][0]
    assert (first["lease_id"], first["code"], first["hand_back"]) == ("left", "worker_died", True)
    assert runtime.seqs(task, 0) == [1]
    assert (task.attempts, len(executor.tasks)) == (1, 1)
    assert spooled(worker_directory) == []


async def test_a_second_daemon_of_a_worker_directory_is_refused(tmp_path: Path) -> None:
    with sole_daemon(tmp_path), pytest.raises(ConfigurationError, match=str(os.getpid())), sole_daemon(tmp_path):
        pass
    with sole_daemon(tmp_path), (tmp_path / "daemon.lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
