"""A worker of another release says plainly that it is not understood, keeps its work, and goes on once it is."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real_postgres import eventually
from tests.real_runtime import Replica, told
from tests.worker.worker_daemon import PACE, ScriptedExecutor, daemon, spooled, success

from bloom.base.protocol import PROTOCOL
from bloom.client import RuntimeRefused
from bloom.worker.executors.interface import Emit, Report, RunTask, StopSignal
from bloom.worker.options import Pace, WorkerOptions
from bloom.worker.reachability import Backoff, is_passing

pytestmark = pytest.mark.anyio

REFUSED = RuntimeRefused("upgrade the runtime", status=409, code="protocol_mismatch")


def options(url: str) -> WorkerOptions:
    return WorkerOptions(url, None, "w1", 1, "auto", None, grace_sec=0, pace=replace(PACE, extend_sec=0.5))


def test_a_worker_that_is_not_understood_tries_again_after_a_minute() -> None:
    assert is_passing(REFUSED)
    assert Backoff(Pace()).pause_sec(REFUSED) == 60


async def test_a_worker_of_a_newer_release_says_so_and_works_once_the_runtime_is_upgraded(
    runtime: Replica, worker_directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        return success("done")

    task = runtime.create()
    with monkeypatch.context() as older, caplog.at_level(logging.ERROR, "bloom.worker"):
        older.setattr("bloom.web.protocol.PROTOCOL", PROTOCOL - 1)
        async with daemon(options(runtime.url), ScriptedExecutor(answer)):
            await asyncio.to_thread(eventually, lambda: caplog.messages)
            assert told(runtime.get("/workers")) == []
            older.undo()
            await asyncio.to_thread(eventually, lambda: runtime.task(task["id"])["status"] == "completed")
    (line,) = caplog.messages
    assert f"speaks version {PROTOCOL}" in line and "upgrade the runtime" in line


async def test_finished_work_waits_for_a_runtime_that_understands_it(
    runtime: Replica, worker_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older = pytest.MonkeyPatch()

    async def answer(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        older.setattr("bloom.web.protocol.PROTOCOL", PROTOCOL - 1)
        return success("done in between")

    task = runtime.create()
    try:
        with caplog.at_level(logging.ERROR, "bloom.worker"):
            async with daemon(options(runtime.url), ScriptedExecutor(answer)):
                await asyncio.to_thread(eventually, lambda: caplog.messages)
                assert spooled(worker_directory)
                older.undo()
                await asyncio.to_thread(eventually, lambda: runtime.task(task["id"])["status"] == "completed")
    finally:
        older.undo()
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert result["output"] == "done in between"
