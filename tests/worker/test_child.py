"""A child under its guardian, from asyncio."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from living import PATIENCE_SEC, marked, until, with_marker

from bloom.worker.child import STDERR_TAIL_BYTES, Child, Exit, end_strays, find_strays, running_child

pytestmark = pytest.mark.anyio

ENVIRONMENT = {"PATH": os.environ["PATH"]}
MEGABYTE = 1024 * 1024


@pytest.fixture
def marker() -> Generator[str]:
    with marked() as made:
        yield made


@pytest.fixture(params=["pipe", "file"])
def output_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path if request.param == "file" else None


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def child_of(argv: list[str], tmp_path: Path, **options: Any) -> AbstractAsyncContextManager[Child]:
    options = {"env": ENVIRONMENT, "cwd": tmp_path, "lease_id": f"lease-{uuid4()}", "grace_sec": 0.05, **options}
    return running_child(argv, **options)


async def everything(child: Child) -> bytes:
    return b"".join([chunk async for chunk in child.chunks()])


async def first(child: Child) -> bytes:
    async with asyncio.timeout(PATIENCE_SEC):
        chunk = await child.read()
    assert chunk is not None
    return chunk


async def test_it_gives_back_what_the_child_makes_of_its_input(tmp_path: Path, output_dir: Path | None) -> None:
    async with child_of(["tr", "a-z", "A-Z"], tmp_path, stdin=b"a prompt", output_dir=output_dir) as child:
        assert await everything(child) == b"A PROMPT"
        assert await child.wait() == Exit(code=0)


async def test_a_line_of_thirty_megabytes_goes_in_and_out_whole(tmp_path: Path, output_dir: Path | None) -> None:
    line = os.urandom(MEGABYTE).replace(b"\n", b"x") * 30 + b"\n"
    async with child_of(["cat"], tmp_path, stdin=line, output_dir=output_dir) as child:
        assert await everything(child) == line


async def test_a_child_that_does_not_read_its_input_is_no_obstacle(tmp_path: Path) -> None:
    async with child_of(["sh", "-c", "exec 0<&-; echo done"], tmp_path, stdin=b"x" * 4 * MEGABYTE) as child:
        assert await everything(child) == b"done\n"
        assert (await child.wait()).code == 0


async def test_a_program_that_exits_before_a_pipe_took_all_loses_nothing_to_a_file(tmp_path: Path) -> None:
    # As the Claude CLI does: its writes do not wait for a full pipe, and it exits all the same.
    code = "import os\nos.set_blocking(1, False)\nn = os.write(1, b'x' * 3_000_000)\nos._exit(0)"
    async with child_of(python(code), tmp_path, output_dir=tmp_path) as child:
        assert (await child.wait()).code == 0
        assert len(await everything(child)) == 3_000_000
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_reading_can_be_impatient(tmp_path: Path, output_dir: Path | None, marker: str) -> None:
    async with child_of(["sh", "-c", f"echo early; sleep {marker}"], tmp_path, output_dir=output_dir) as child:
        assert await first(child) == b"early\n"
        assert await child.read(patience=0.01) is None


async def test_the_end_of_stderr_is_kept(tmp_path: Path) -> None:
    code = "import sys\nsys.stderr.write('x' * 100_000 + 'the end')"
    async with child_of(python(code), tmp_path) as child:
        await child.wait()
        assert len(child.stderr_tail) == STDERR_TAIL_BYTES
        assert child.stderr_tail.endswith("the end")


async def test_it_gets_the_given_environment_and_directory_and_its_lease(tmp_path: Path) -> None:
    script = 'echo "$BLOOM_LEASE_ID $SPECIAL $HOME $(pwd)"'
    env = {**ENVIRONMENT, "SPECIAL": "of its own"}
    async with child_of(["sh", "-c", script], tmp_path, env=env, lease_id="lease-1") as child:
        assert (await everything(child)).decode() == f"lease-1 of its own  {tmp_path}\n"


async def test_a_missing_program_is_an_exit_and_a_missing_directory_an_error(tmp_path: Path) -> None:
    async with child_of(["/there/is/no/such/program"], tmp_path) as child:
        assert (await child.wait()).errno == 2
        assert await everything(child) == b""
    with pytest.raises(FileNotFoundError):
        async with child_of(["true"], tmp_path / "nowhere"):
            pass


async def test_stop_returns_when_no_descendant_is_left_and_may_be_called_again(tmp_path: Path, marker: str) -> None:
    script = f"trap '' INT; setsid sleep {marker} & (setsid sleep {marker} &) ; echo ready; sleep {marker}"
    async with child_of(["sh", "-c", script], tmp_path) as child:
        await first(child)
        ends = await asyncio.gather(child.stop(), child.stop())
        assert with_marker(marker) == []
        assert ends[0] == ends[1] == await child.stop()
        assert ends[0].signal == signal.SIGKILL
        assert psutil.pid_exists(child.guardian_pid) is False


async def test_a_cancelled_run_leaves_nothing_when_the_cancellation_arrives(tmp_path: Path, marker: str) -> None:
    ready = asyncio.Event()

    async def run() -> None:
        script = f"trap '' INT; setsid sleep {marker} & echo ready; sleep {marker}"
        async with child_of(["sh", "-c", script], tmp_path) as child:
            await first(child)
            ready.set()
            await child.wait()

    running = asyncio.create_task(run())
    await asyncio.wait_for(ready.wait(), PATIENCE_SEC)
    until(lambda: len(with_marker(marker)) == 2)
    running.cancel()
    await asyncio.wait({running}, timeout=0)
    running.cancel()  # impatience changes nothing
    with pytest.raises(asyncio.CancelledError):
        await running
    assert with_marker(marker) == []


async def test_an_error_in_the_block_ends_the_child_too(tmp_path: Path, marker: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with child_of(["sleep", marker], tmp_path):
            raise ZeroDivisionError
    assert with_marker(marker) == []


async def test_what_a_killed_guardian_leaves_is_found_by_its_lease_and_ended(tmp_path: Path, marker: str) -> None:
    # The tool left the guardian's reach with it: a session of its own, and it holds the child's output open.
    script = f"(setsid sleep {marker} &) ; echo ready; sleep {marker}"
    async with child_of(["sh", "-c", script], tmp_path) as child:
        await first(child)
        until(lambda: len(with_marker(marker)) == 2)
        os.kill(child.guardian_pid, signal.SIGKILL)
        ended = await child.wait()
        assert ended == Exit(leftovers=ended.leftovers)
        assert with_marker(marker) == []
        assert await everything(child) == b""


def start(argv: list[str], env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, env=env, cwd=cwd, stdout=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    process.communicate()
    return process.returncode


async def test_strays_of_other_leases_are_left_alone(marker: str) -> None:
    mine, other = f"lease-{uuid4()}", f"lease-{uuid4()}"
    strays = [start(["sleep", marker], env={**ENVIRONMENT, "BLOOM_LEASE_ID": lease}) for lease in (mine, other)]
    until(lambda: len(with_marker(marker)) == 2)
    assert find_strays(mine) == [strays[0].pid]
    assert await end_strays(mine) == 1
    assert find_strays(other) == [strays[1].pid]
    assert [finish(stray) for stray in strays] == [-signal.SIGKILL, -signal.SIGKILL]


WORKER = """
import asyncio, pathlib, sys
from bloom.worker.child import running_child
async def main():
    script = f"trap '' INT; setsid sleep {sys.argv[1]} & (setsid sleep {sys.argv[1]} &) ; echo ready; sleep {sys.argv[1]}"
    async with running_child(["sh", "-c", script], env={"PATH": sys.argv[2]}, cwd=pathlib.Path.cwd(), lease_id="l",
                             grace_sec=0.05) as child:
        print((await child.read()).decode(), flush=True)
        await child.wait()
asyncio.run(main())
"""


async def test_nothing_survives_the_worker_even_if_it_is_killed(tmp_path: Path, marker: str) -> None:
    argv = [sys.executable, "-c", WORKER, marker, ENVIRONMENT["PATH"]]
    worker = start(argv, cwd=tmp_path)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    until(lambda: len(with_marker(marker)) == 4)  # the worker itself names the marker too
    finish(worker)
    until(lambda: with_marker(marker) == [])
