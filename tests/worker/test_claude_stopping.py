"""Nothing that the Claude CLI started outlives its run: its tools run in sessions of their own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from living import marked, until, with_marker
from recording import Make, record, run, task
from tests.stubs.anthropic import AnthropicStub

from bloom.worker.executors.interface import StopReason

pytestmark = [pytest.mark.anyio, pytest.mark.claude]

ALLOWED = {"default": {"allowed_tools": ["Bash"]}}


@pytest.fixture
def marker() -> Generator[str]:
    with marked() as made:
        yield made


def tool(marker: str) -> str:
    """A mode in which the CLI's tool starts what is hard to catch, and goes on itself."""
    return f"bash-trap '' INT TERM HUP; setsid sleep {marker} & (setsid sleep {marker} &) ; sleep {marker}"


async def all_alive(marker: str) -> None:
    await asyncio.to_thread(until, lambda: len(with_marker(marker)) == 3)


@pytest.mark.parametrize(
    ("reason", "code", "retryable"),
    [
        (StopReason.LEASE_LOST, "lease_lost", False),
        (StopReason.SHUTDOWN, "interrupted", True),
    ],
)
async def test_a_stop_ends_the_tools_too(
    claude: Make, marker: str, reason: StopReason, code: str, retryable: bool
) -> None:
    recording = record(claude(tool(marker), agents=ALLOWED), task())
    await all_alive(marker)
    recording.stop.set(reason)
    report = await recording.report()
    assert with_marker(marker) == []
    assert (report.status, report.code, report.retryable) == ("error", code, retryable)
    assert report.metrics["session_id"]
    assert recording.of("error") == []


async def test_a_timeout_ends_the_tools_too(claude: Make, marker: str) -> None:
    recording = record(claude(tool(marker), agents=ALLOWED), task(timeout_sec=6))
    await all_alive(marker)
    report = await recording.report()
    assert with_marker(marker) == []
    assert report.code == "timeout"


async def test_a_cancelled_coroutine_ends_the_tools_too(claude: Make, marker: str) -> None:
    recording = record(claude(tool(marker), agents=ALLOWED), task())
    await all_alive(marker)
    assert recording.running is not None
    recording.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await recording.running
    assert with_marker(marker) == []


async def test_what_a_tool_left_running_ends_with_a_good_run(claude: Make, marker: str) -> None:
    mode = f"bash-setsid sleep {marker} >/dev/null 2>&1 & (setsid sleep {marker} >/dev/null 2>&1 &) ; echo left"
    report, recording = await run(claude(mode, agents=ALLOWED), task())
    assert report.status == "success"
    assert recording.of("tool_result")[0]["content"] == "left"
    assert report.metrics["leftovers_killed"] == 2
    assert with_marker(marker) == []


async def test_a_stop_while_the_api_hangs_is_quick(claude: Make, stub: AnthropicStub) -> None:
    recording = record(claude("hang", stop_grace_sec=60), task())
    await asyncio.to_thread(stub.wait_for_requests, 1)
    recording.stop.set(StopReason.CANCELLED)
    assert (await recording.report()).code == "cancelled"


WORKER = """
import asyncio, json, os, pathlib, sys
from bloom.worker.config import WorkerConfig
from bloom.worker.executors.choice import build_executor
from bloom.worker.executors.interface import RunTask, StopSignal
config = WorkerConfig.model_validate({"stop_grace_sec": 0.2, "agents": {"default": {"allowed_tools": ["Bash"]}}})
executor = build_executor(config, pathlib.Path(sys.argv[1]), "claude")
async def emit(event):
    print(event.type, flush=True)
async def main():
    await executor.run(RunTask("t", "lease", "c", "a", "p"), emit, StopSignal())
asyncio.run(main())
"""


async def test_nothing_outlives_a_worker_that_is_killed(
    claude_environment: Callable[[str], dict[str, str]], marker: str, tmp_path: Path
) -> None:
    def start_and_kill() -> None:
        with subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "workspace")],
            env=claude_environment(tool(marker)),
            stdout=subprocess.PIPE,
        ) as worker:
            until(lambda: len(with_marker(marker)) == 3)
            worker.kill()

    await asyncio.to_thread(start_and_kill)
    await asyncio.to_thread(until, lambda: with_marker(marker) == [])


async def test_nothing_outlives_a_guardian_that_is_killed(claude: Make, marker: str) -> None:
    of = task()
    recording = record(claude(tool(marker), agents=ALLOWED), of)
    await all_alive(marker)
    os.kill(await asyncio.to_thread(guardian_of, of.lease_id), 9)
    report = await recording.report()
    assert with_marker(marker) == []
    assert (report.code, report.retryable) == ("interrupted", True)


def guardian_of(lease_id: str) -> int:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    wanted = f"BLOOM_LEASE_ID={lease_id}".encode()
    return next(int(pid) for pid in children if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\x00"))
