"""A child process under its guardian, driven from asyncio: no descendant of it survives the block that started it.

The status pipe's end of file, not waitpid, says that the guardian is gone: it holds even when the guardian was killed
and something that it left behind still has the child's output open.

Stdout is a pipe, or a file where a program may exit before a pipe has taken all it wrote: the Claude CLI does so (2.1.197;
its issue 77112), and loses whatever of its last lines exceeds the pipe's buffer of 64 KiB. Writes to a file are whole.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from bloom.telemetry.tracing import span

LEASE_VARIABLE = "BLOOM_LEASE_ID"
"""Every child and what it starts carries this in its environment."""

TRACE_VARIABLE = "TRACEPARENT"
"""By which a child finds its place in a trace (opentelemetry.io, "Environment Variables as Context Propagation Carriers")."""

CHUNK_BYTES = 64 * 1024
STDERR_TAIL_BYTES = 8 * 1024

_SHORTEST_LOOK_SEC = 0.02
_LONGEST_LOOK_SEC = 0.2
"""How long to wait before looking whether a file has grown: from the one, when it just has, to the other."""

_GUARDIAN = Path(__file__).with_name("guardian.py")

T = TypeVar("T")


@dataclass(frozen=True)
class Exit:
    """How a child ended: one of `code`, `signal` and `errno` (it could not be started) is set.

    None is when the guardian was killed, by the kernel out of memory for example. `leftovers` counts descendants that
    outlived the child and were killed.
    """

    code: int | None = None
    signal: int | None = None
    errno: int | None = None
    leftovers: int = 0


def find_strays(lease_id: str) -> list[int]:
    """Process ids of this user that carry `lease_id` in their environment; this process is not among them."""
    strays: list[int] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(LEASE_VARIABLE) == lease_id:
                strays.append(process.pid)
    return strays


async def end_strays(lease_id: str) -> int:
    """Kill what a killed guardian left of a run, until nothing is found; returns how many there were."""
    ended: set[int] = set()
    while strays := find_strays(lease_id):
        refused = 0
        for pid in strays:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:
                refused += 1
        if refused == len(strays):
            break
        ended.update(strays)
        await asyncio.sleep(0.01)
    return len(ended)


async def see_through(awaitable: Awaitable[T]) -> T:
    """Await to the end even when the caller is cancelled meanwhile; the CancelledError is raised after it."""
    inner = asyncio.ensure_future(awaitable)
    cancelled: asyncio.CancelledError | None = None
    while not inner.done():
        try:
            await asyncio.shield(inner)
        except asyncio.CancelledError as error:
            if not inner.cancelled():
                cancelled = error
        except Exception:  # noqa: BLE001 - raised below, by result()
            break
    if cancelled is not None:
        raise cancelled
    return inner.result()


async def _ready(pipe: int, *, to_write: bool = False, patience: float | None = None) -> bool:
    """Wait until `pipe` can be read (or written); False when `patience` seconds passed first."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[bool] = loop.create_future()

    def settle(ready: bool) -> None:
        if not waiter.done():
            waiter.set_result(ready)

    timer = None if patience is None else loop.call_later(patience, settle, False)
    (loop.add_writer if to_write else loop.add_reader)(pipe, settle, True)
    try:
        return await waiter
    finally:
        (loop.remove_writer if to_write else loop.remove_reader)(pipe)
        if timer is not None:
            timer.cancel()


async def _read(pipe: int, patience: float | None = None) -> bytes | None:
    while True:
        with contextlib.suppress(BlockingIOError):
            return os.read(pipe, CHUNK_BYTES)
        if not await _ready(pipe, patience=patience):
            return None


class Child:
    """One running child. Made by `running_child` only."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        lease_id: str,
        stdin: bytes,
        grace_sec: float,
        output_dir: Path | None,
    ) -> None:
        self._lease_id = lease_id
        self._tail = bytearray()
        self._closed = False
        # It has no name, so nothing is left of it whatever happens.
        self._file = None if output_dir is None else tempfile.TemporaryFile(dir=output_dir, buffering=0)  # noqa: SIM115
        self._position = 0
        self._look_sec = _SHORTEST_LOOK_SEC
        control, self._control = os.pipe()
        self._status, status = os.pipe()
        command = [sys.executable, "-I", "-S", str(_GUARDIAN), str(control), str(status), str(grace_sec), *argv]
        try:
            self._guardian = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if self._file is None else self._file,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=cwd,
                env={**env, LEASE_VARIABLE: lease_id},
                pass_fds=(control, status),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._control)
            os.close(self._status)
            if self._file is not None:
                self._file.close()
            raise
        finally:
            os.close(control)
            os.close(status)
        streams = (self._guardian.stdin, self._guardian.stdout, self._guardian.stderr)
        self._stdin, self._stdout, self._stderr = (-1 if stream is None else stream.fileno() for stream in streams)
        for pipe in (self._stdin, self._stdout, self._stderr, self._status):
            if pipe >= 0:
                os.set_blocking(pipe, False)
        self._feeding = asyncio.create_task(self._feed(stdin))
        self._listening = asyncio.create_task(self._listen())
        self._over = asyncio.create_task(self._await_end())

    @property
    def guardian_pid(self) -> int:
        """The process id of the guardian."""
        return self._guardian.pid

    @property
    def stderr_tail(self) -> str:
        """The last 8 KiB that the child wrote to stderr so far."""
        return self._tail.decode(errors="replace")

    async def read(self, patience: float | None = None) -> bytes | None:
        """The next piece of stdout, up to 64 KiB; empty at its end, None when nothing came for `patience` seconds."""
        if self._file is None:
            return await _read(self._stdout, patience)
        waited = 0.0
        while True:
            over = self._over.done()
            if chunk := os.pread(self._file.fileno(), CHUNK_BYTES, self._position):
                self._position += len(chunk)
                self._look_sec = _SHORTEST_LOOK_SEC
                return chunk
            if over:
                return b""
            if patience is not None and waited >= patience:
                return None
            look_sec = self._look_sec if patience is None else min(self._look_sec, patience - waited)
            await asyncio.wait({self._over}, timeout=look_sec)
            waited += look_sec
            self._look_sec = min(self._look_sec * 1.5, _LONGEST_LOOK_SEC)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Stdout to its end, in pieces of up to 64 KiB, whatever the lengths of its lines."""
        while chunk := await self.read():
            yield chunk

    async def wait(self) -> Exit:
        """How the child ended. Returns when none of its descendants is left and stderr is read to its end."""
        return await asyncio.shield(self._over)

    async def stop(self, *, at_once: bool = False) -> Exit:
        """End the child and all its descendants: SIGINT, the grace, SIGKILL; `at_once` leaves out the first two.

        Returns when none is left. May be called again, and after the child's own end.
        """
        if not self._over.done():
            with contextlib.suppress(BrokenPipeError):
                os.write(self._control, b"k" if at_once else b"s")
        return await self.wait()

    async def _feed(self, data: bytes) -> None:
        pipe = self._stdin
        rest = memoryview(data)
        try:
            while rest:
                try:
                    rest = rest[os.write(pipe, rest[:CHUNK_BYTES]) :]
                except BlockingIOError:
                    await _ready(pipe, to_write=True)
        except BrokenPipeError:
            pass  # it did not want to read all of it
        finally:
            if self._guardian.stdin is not None:
                self._guardian.stdin.close()

    async def _listen(self) -> None:
        while chunk := await _read(self._stderr):
            self._tail += chunk
            del self._tail[:-STDERR_TAIL_BYTES]

    async def _await_end(self) -> Exit:
        said = b""
        while part := await _read(self._status):
            said += part
        leftovers = 0
        if not said.endswith(b"\n") or sys.platform != "linux":
            leftovers = await end_strays(self._lease_id)
        self._guardian.wait()  # its pipes are closed by its exit, so there is nothing left to wait for
        await self._listening
        ending: dict[str, Any] = json.loads(said) if said.endswith(b"\n") else {}
        return Exit(
            code=ending.get("exit"),
            signal=ending.get("signal"),
            errno=ending.get("errno"),
            leftovers=leftovers + ending.get("leftovers", 0),
        )

    async def close(self) -> None:
        """Stop what still runs and give back the pipes."""
        if self._closed:
            return
        self._closed = True
        try:
            await self.stop()
        finally:
            for task in (self._feeding, self._listening, self._over):
                task.cancel()
            await asyncio.gather(self._feeding, self._listening, self._over, return_exceptions=True)
            for stream in (self._guardian.stdin, self._guardian.stdout, self._guardian.stderr):
                if stream is not None:
                    stream.close()
            if self._file is not None:
                self._file.close()
            os.close(self._control)
            os.close(self._status)


@asynccontextmanager
async def running_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    lease_id: str,
    stdin: bytes = b"",
    grace_sec: float = 3.0,
    output_dir: Path | None = None,
) -> AsyncGenerator[Child]:
    """Run `argv` in `cwd` with exactly `env` (and BLOOM_LEASE_ID), feeding it `stdin`. While runs are traced, it has a span of
    its own, which takes the place of the `TRACEPARENT` that it is given.

    When the block is left, for whatever reason, no descendant of the child lives: an exception or a CancelledError
    leaves the block only after that. `grace_sec` is the time between SIGINT and SIGKILL. With `output_dir` stdout is a
    nameless file there instead of a pipe. Raises OSError when the
    guardian cannot be started (`cwd` is missing, no memory) and ValueError for a NUL in `argv`; a program that is not
    there is `Exit.errno`.
    """
    with span("task.child", env.get(TRACE_VARIABLE), {"process.executable.name": Path(argv[0]).name}) as traceparent:
        traced = {} if traceparent is None else {TRACE_VARIABLE: traceparent}
        child = Child(argv, {**env, **traced}, cwd, lease_id, stdin, grace_sec, output_dir)
        try:
            yield child
        finally:
            await see_through(child.close())
