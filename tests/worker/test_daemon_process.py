"""The daemon as a process of its own, with real children, killed and told to stop from outside."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from tests.stubs.runtime import FakeRuntime, fake_runtime

pytestmark = pytest.mark.anyio

START_SEC = 20
"""Python starts several times, with all that a daemon imports, on what may be a busy machine."""

# A child that tells its pid and that of a grandchild in a session of its own, then goes on for ever.
CHILD = """
import os, subprocess, sys, time
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
print(os.getpid(), other.pid, flush=True)
time.sleep(3600)
"""
# What `bloom worker` runs, without the rest of the command line.
DAEMON = """
import sys
from bloom.worker.daemon import run_worker
from bloom.worker.options import Pace, WorkerOptions
pace = Pace(retry_first_sec=0.01, retry_max_sec=0.05, extend_sec=0.05)
sys.exit(run_worker(WorkerOptions(sys.argv[1], None, "w1", 1, "command", None, 3600, pace=pace)))
"""


@contextmanager
def daemon_process(runtime: FakeRuntime, directory: Path) -> Generator[subprocess.Popen[bytes]]:
    """A daemon that is dead when the block is left."""
    argv = [sys.executable, "-c", DAEMON, runtime.url]
    with subprocess.Popen(argv, env={**os.environ, "BLOOM_WORKER_DIR": str(directory)}) as process:
        try:
            yield process
        finally:
            process.kill()


async def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code of `process`."""
    return await asyncio.to_thread(process.wait, START_SEC)


async def family(runtime: FakeRuntime, lease_id: str) -> list[psutil.Process]:
    """The child and the grandchild, as the child's first words tell them."""
    await runtime.until(lambda: any(event["type"] == "text" for event in runtime.events[lease_id]))
    words = next(event["data"]["text"] for event in runtime.events[lease_id] if event["type"] == "text")
    return [psutil.Process(int(pid)) for pid in words.split()]


async def all_dead(processes: list[psutil.Process]) -> None:
    """Wait until none of them lives."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, START_SEC)
    assert all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.fixture
def directory(tmp_path: Path) -> Generator[Path]:
    """A worker directory whose command goes on for ever; whatever a failed test leaves running is killed."""
    argv = json.dumps([sys.executable, "-c", CHILD])
    (tmp_path / "worker.toml").write_text(f"stop_grace_sec = 0\n[command]\nargv = {argv}\n")
    yield tmp_path
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("BLOOM_LEASE_ID", "").startswith("task-1-lease-"):
                process.kill()


async def test_a_killed_daemon_hands_back_at_its_next_start_and_leaves_no_process(directory: Path) -> None:
    async with fake_runtime(START_SEC) as runtime:
        task = await runtime.add_task()
        with daemon_process(runtime, directory) as first:
            await runtime.until(lambda: task.leases)
            processes = await family(runtime, task.leases[0])
            first.send_signal(signal.SIGKILL)
            assert await ended(first) == -signal.SIGKILL
        with daemon_process(runtime, directory) as second:
            await runtime.until(lambda: len(task.leases) == 2)
            await all_dead(processes)
            assert task.attempts == 1
            assert runtime.bodies("complete")[0]["completions"][0]["hand_back"] is True
            processes = await family(runtime, task.leases[1])
            second.send_signal(signal.SIGTERM)
            second.send_signal(signal.SIGINT)
            assert await ended(second) == 0
        await all_dead(processes)
    assert (task.status, task.attempts) == ("queued", 0)
    assert [path.name for path in (directory / "spool").iterdir()] == []


async def test_a_run_that_is_lost_is_dead_with_all_its_descendants(directory: Path) -> None:
    async with fake_runtime(START_SEC) as runtime:
        task = await runtime.add_task()
        with daemon_process(runtime, directory) as process:
            await runtime.until(lambda: task.leases)
            processes = await family(runtime, task.leases[0])
            task.status = "cancelled"
            runtime.lost.update(task.leases)
            await all_dead(processes)
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
    assert runtime.bodies("complete") == []


async def test_a_run_is_dead_before_its_lease_ends_when_the_runtime_is_gone(directory: Path) -> None:
    async with fake_runtime(START_SEC) as runtime:
        runtime.ttl_seconds = 2
        task = await runtime.add_task()
        with daemon_process(runtime, directory) as process:
            await runtime.until(lambda: task.leases)
            processes = await family(runtime, task.leases[0])
            await runtime.down()
            await all_dead(processes)
            await runtime.up()
            await runtime.until(lambda: task.completion)
            process.send_signal(signal.SIGTERM)
            assert await ended(process) == 0
    assert task.completion is not None
    assert (task.completion["code"], task.completion["retryable"]) == ("interrupted", True)
