"""A sync that Membridge asked for, as a child process of the agent."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bloom.membridge.schemas import OUTPUT_CHARS, ReportJob

Tell = Callable[[ReportJob], Awaitable[None]]


@dataclass(frozen=True)
class JobPace:
    """Seconds: how long a sync may take, how often it is reported, how long it may take to end when it is stopped."""

    job_sec: float = 600
    report_sec: float = 5
    stop_sec: float = 5
    """Within this a sync that is stopped releases its lock; after it, it is killed."""


async def run_job(
    argv: Sequence[str], environment: Mapping[str, str], pace: JobPace, stopping: asyncio.Event, tell: Tell
) -> ReportJob:
    """Run `argv` to its end and return what there is to report; `tell` hears meanwhile what it has said so far.

    It is stopped, with all that it started, after its time, or when `stopping` is set.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return ReportJob(status="failed", detail=f"the sync could not be started: {error.strerror}")
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    out, err = _Tail(), _Tail()
    ended = asyncio.ensure_future(
        asyncio.gather(out.follow(process.stdout), err.follow(process.stderr), process.wait())
    )
    stopped = asyncio.ensure_future(stopping.wait())
    loop = asyncio.get_running_loop()
    begun, why = loop.time(), None
    try:
        while not ended.done():
            seconds = loop.time() - begun
            await tell(_report("running", f"running for {seconds:.0f} s", out, err))
            left = pace.job_sec - seconds
            await asyncio.wait(
                {ended, stopped}, timeout=max(0, min(left, pace.report_sec)), return_when=asyncio.FIRST_COMPLETED
            )
            if not ended.done() and (stopped.done() or loop.time() - begun >= pace.job_sec):
                why = "the worker was stopped" if stopped.done() else f"it took longer than {pace.job_sec:g} s"
                break
    finally:
        if not ended.done():
            await _stop(process, ended, pace.stop_sec)
        stopped.cancel()
    code = process.returncode
    last = (out.text if code == 0 else err.text).strip().rpartition("\n")[2]
    detail = f"stopped: {why}" if why is not None else last.removeprefix("bloom: ") or f"exit code {code}"
    report = _report("done" if code == 0 else "failed", detail, out, err)
    return report.model_copy(update={"returncode": code, "progress": 1.0 if code == 0 else None})


async def _stop(process: asyncio.subprocess.Process, ended: "asyncio.Future[Any]", seconds: float) -> None:
    """First so that it can release its lock, then by force; both reach all that it started in its own session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        await asyncio.wait({ended}, timeout=seconds)
        if ended.done():
            return
    ended.cancel()
    await asyncio.wait({ended})


def _report(status: str, detail: str, out: "_Tail", err: "_Tail") -> ReportJob:
    return ReportJob.model_validate(
        {
            "status": status,
            "detail": detail[:1000],
            "stdout": out.text,
            "stderr": err.text,
            "progress": 0.0 if status == "running" else None,
        }
    )


class _Tail:
    """The last `OUTPUT_CHARS` bytes of a stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    async def follow(self, stream: asyncio.StreamReader) -> None:
        while chunk := await stream.read(OUTPUT_CHARS):
            self._bytes += chunk
            del self._bytes[:-OUTPUT_CHARS]

    @property
    def text(self) -> str:
        return self._bytes.decode(errors="replace").replace("\0", "�")
