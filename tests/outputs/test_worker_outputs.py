"""The worker brings large outputs to the runtime: from its disk, through cuts, and never a wrong one."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from tests.outputs.uploads import downloaded, large
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, told
from tests.stubs.cutting_proxy import cutting_proxy
from tests.worker.worker_daemon import (
    NO_LIMITS,
    PACE,
    DaemonUnderTest,
    ScriptedExecutor,
    daemon,
    spooled,
    success,
)

from bloom.worker.executors.interface import Emit, Report, RunTask, StopSignal
from bloom.worker.options import WorkerOptions
from bloom.worker.spool import RunEntry, Spool

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024

T = TypeVar("T")


def options(url: str) -> WorkerOptions:
    pace = replace(PACE, extend_sec=0.5)
    return WorkerOptions(url, None, "w1", 1, "auto", None, grace_sec=0, pace=pace)


def answering(output: str) -> ScriptedExecutor:
    async def answer(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        return success(output)

    return ScriptedExecutor(answer)


async def until(look: Callable[[], T]) -> T:
    """The first true value of `look`, while the daemon works on."""
    return await asyncio.to_thread(eventually, look, within_sec=60)


async def ended(runtime: Replica, task_id: str, state: str = "completed") -> None:
    """Return when the task has come to this state."""
    await until(lambda: runtime.task(task_id)["status"] == state)


def artifact_of(runtime: Replica, task_id: str) -> bytes:
    (artifact,) = told(runtime.get("/artifacts", task_id=task_id))
    return downloaded(runtime, artifact["id"])


async def test_a_large_output_is_uploaded_before_its_completion(
    runtime: Replica, database: FreshDatabase, worker_directory: Path
) -> None:
    output = large(9 * MIB).decode()
    task = runtime.create()
    async with daemon(options(runtime.url), answering(output)):
        await ended(runtime, task["id"])
    assert artifact_of(runtime, task["id"]).decode() == output
    assert spooled(worker_directory) == []
    assert database.value("select kept and lease_id is not null from bloom.uploads")


async def test_an_output_of_eight_mebibytes_travels_in_its_completion(
    runtime: Replica, database: FreshDatabase, worker_directory: Path
) -> None:
    output = "x" * (8 * MIB - 2)
    task = runtime.create()
    async with daemon(options(runtime.url), answering(output)):
        await ended(runtime, task["id"])
    assert artifact_of(runtime, task["id"]).decode() == output
    assert database.value("select lease_id is null from bloom.uploads")


async def test_an_output_that_grows_as_json_is_uploaded_too(
    runtime: Replica, database: FreshDatabase, worker_directory: Path
) -> None:
    output = "\x01" * (6 * MIB)
    task = runtime.create()
    async with daemon(options(runtime.url), answering(output)):
        await ended(runtime, task["id"])
    assert artifact_of(runtime, task["id"]).decode() == output


async def test_an_upload_that_is_cut_goes_on_where_it_was(
    runtime: Replica, database: FreshDatabase, worker_directory: Path
) -> None:
    output = large(24 * MIB).decode()
    task = runtime.create()
    with cutting_proxy(runtime.url) as proxy:
        proxy.upload_cuts += [1, 300, 100_001, 3 * MIB + 17, 200, 16 * MIB + 5, 1_000_003, 7 * MIB]
        async with daemon(options(proxy.url), answering(output)):
            await ended(runtime, task["id"])
        assert not proxy.upload_cuts
    assert artifact_of(runtime, task["id"]).decode() == output
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert result["truncated"] is True


async def test_a_daemon_that_was_killed_while_it_uploaded_goes_on_after_its_restart(
    runtime: Replica, database: FreshDatabase, worker_directory: Path
) -> None:
    output = large(24 * MIB).decode()
    task = runtime.create()
    executor = answering(output)
    killed = DaemonUnderTest(options(runtime.url), executor, NO_LIMITS, None)
    await until(lambda: database.rows("select 1 from bloom.uploads where received > 1000000"))
    await killed.kill()
    assert spooled(worker_directory) and runtime.task(task["id"])["status"] == "running"
    async with daemon(options(runtime.url), executor):
        await ended(runtime, task["id"])
    assert len(executor.tasks) == 1
    assert artifact_of(runtime, task["id"]).decode() == output


async def test_characters_that_cannot_be_stored_are_replaced_and_counted_in_a_large_output_too(
    runtime: Replica, worker_directory: Path
) -> None:
    output = "ab\0\ud800" * (3 * MIB)
    task = runtime.create()
    async with daemon(options(runtime.url), answering(output)):
        await ended(runtime, task["id"])
    assert artifact_of(runtime, task["id"]).decode() == "ab\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}" * (
        3 * MIB
    )
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert result["metrics"]["replaced_characters"] == 6 * MIB


def test_a_report_that_the_disk_does_not_take_is_as_clean_as_one_that_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    run = Spool(tmp_path / "spool").open_run(RunEntry("t", "l", "w"))
    monkeypatch.setattr("bloom.worker.spool.write_atomically", full)
    run.write_report({"code": None, "metrics": {"model": "a\0\ud800", "cost": float("nan")}}, 0)
    bad = "\N{REPLACEMENT CHARACTER}"
    assert run.read_report() == {"code": None, "metrics": {"model": f"a{bad}{bad}", "cost": None}}
    run.close()


async def test_an_output_over_the_limit_of_the_runtime_is_an_error_that_says_so(
    start_replica: StartReplica, worker_directory: Path
) -> None:
    runtime = start_replica(BLOOM_MAX_OUTPUT_BYTES=str(9 * MIB))
    task = runtime.create()
    async with daemon(options(runtime.url), answering("x" * (10 * MIB))):
        await ended(runtime, task["id"], "failed")
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert result["code"] == "output_too_large" and str(10 * MIB) in result["error_message"]
    assert spooled(worker_directory) == []


async def test_the_beginning_of_an_output_whose_lease_was_lost_can_be_read(
    runtime: Replica, database: FreshDatabase, worker_directory: Path
) -> None:
    output = large(9 * MIB).decode()

    async def lose_then_answer(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        database.expire(task.lease_id)
        await asyncio.to_thread(runtime.reap)
        return success(output)

    task = runtime.create(max_attempts=1)
    async with daemon(options(runtime.url), ScriptedExecutor(lose_then_answer)):
        (late,) = await until(lambda: told(runtime.get(f"/llm-tasks/{task['id']}/results")))
        await until(lambda: not spooled(worker_directory))
    assert (late["rejected"], late["reason"]) == (True, "lease_expired")
    whole = told(runtime.get(f"/llm-tasks/{task['id']}/results/{late['id']}"))
    assert whole["output"] == output[:MIB] and whole["truncated"] is True
    assert runtime.task(task["id"])["status"] == "dead"


async def test_an_output_that_arrived_damaged_is_sent_anew(
    runtime: Replica, database: FreshDatabase, worker_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = large(9 * MIB).decode()
    task = runtime.create()
    store = runtime.services.uploading
    append = store._append  # pyright: ignore[reportPrivateUsage]
    damaged: list[str] = []

    async def damage_the_first(growing: object, data: bytes) -> None:
        if not damaged:
            damaged.append("once")
            data = data[:-1] + b"!"
        await append(growing, data)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(store, "_append", damage_the_first)
    async with daemon(options(runtime.url), answering(output)):
        await ended(runtime, task["id"])
    assert damaged
    assert artifact_of(runtime, task["id"]).decode() == output
