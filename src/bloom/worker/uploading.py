"""Uploading a large output from the disk, before the completion that names it. What a cut leaves is gone on with."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.tasks.schemas import UploadAnswer
from bloom.worker.completion import failure
from bloom.worker.options import Pace
from bloom.worker.reachability import Backoff, is_passing
from bloom.worker.runs import Run

log = logging.getLogger("bloom.worker")

PART_BYTES = 16 * 1024 * 1024
"""Of one request: so much is sent in vain, at most, when the runtime refuses it."""

BEGINNING_CHARS = 1024 * 1024 + 1
"""What is told of an output that the runtime takes no more: one character over what it keeps, so that it knows."""

_BLOCK_BYTES = 256 * 1024

Put = Callable[[str, str, int, AsyncIterator[bytes], int, bool], Awaitable[UploadAnswer]]
"""Append to the output of (task id, lease id), at an offset, so many bytes; or begin anew. Raises RuntimeUnreachable or
RuntimeRefused.
"""


def is_to_be_uploaded(completion: dict[str, Any]) -> bool:
    """Whether the output of `completion` is in a file."""
    return completion.get("output_sha256") is not None


class OutputUpload:
    """One run's output on its way."""

    def __init__(self, run: Run, put: Put, pace: Pace) -> None:
        self._run = run
        self._put = put
        self._path = run.spooled.output_path
        self._backoff = Backoff(pace)

    async def deliver(self, completion: dict[str, Any], *, anew: bool) -> dict[str, Any]:
        """Upload what `completion` leaves out, from its beginning if `anew`; returns the completion to send.

        That names the output, or tells its beginning when the lease is lost or the task cancelled, or is an error when
        the runtime does not want the output.
        """
        try:
            return await self._deliver(completion, anew=anew)
        except OSError as error:
            log.error("an output in the spool cannot be read: %s", error.strerror, extra=self._run.about)
            return failure(self._run.spooled.entry, "report_lost", "the worker lost the output", retryable=True)

    async def _deliver(self, completion: dict[str, Any], *, anew: bool) -> dict[str, Any]:
        run, size = self._run, completion["output_size"]
        offset = 0
        sure = False  # of the offset: else nothing is sent but the question
        while not run.lost:
            length = min(PART_BYTES, size - offset) if sure and not anew else 0
            try:
                blocks = _read(self._path, offset, length)
                answer = await self._put(run.task_id, run.lease_id, offset, blocks, length, anew)
            except (RuntimeUnreachable, RuntimeRefused) as error:
                if is_passing(error):
                    await asyncio.sleep(self._backoff.pause_sec(error))
                    sure = False
                    continue
                received = error.detail.get("received")
                if error.code != "offset_mismatch" or not isinstance(received, int):
                    return await self._refused(completion, error)
                if sure:  # another request of ours is still on its way there
                    await asyncio.sleep(self._backoff.pause_sec())
                offset, anew = (received, False) if received <= size else (0, True)
                continue
            self._backoff.reset()
            offset, sure, anew = answer.received, True, False
            if answer.cancel:
                break
            if offset == size:
                return {**completion, "output_ref": answer.output_ref}
        return await asyncio.to_thread(self._beginning, completion)

    async def _refused(self, completion: dict[str, Any], error: RuntimeUnreachable | RuntimeRefused) -> dict[str, Any]:
        run = self._run
        if error.code in ("lease_lost", "cancelled", "task_not_found"):
            return await asyncio.to_thread(self._beginning, completion)
        log.error("the runtime refuses an output (%s)", error.message, extra={**run.about, "code": error.code})
        too_large = isinstance(error, RuntimeRefused) and error.status == 413
        code = "output_too_large" if too_large else "report_refused"
        message = f"the runtime refused the output of {completion['output_size']} bytes: {error.message}"
        return failure(run.spooled.entry, code, message, metrics=completion["metrics"])

    def _beginning(self, completion: dict[str, Any]) -> dict[str, Any]:
        """The completion with the beginning of its output: for a lease under which nothing can be completed any more."""
        with self._path.open("rb") as file:
            text = file.read(4 * BEGINNING_CHARS).decode(errors="ignore")[:BEGINNING_CHARS]
        left = {name: value for name, value in completion.items() if not name.startswith("output_")}
        return {**left, "output": text}


async def _read(path: Path, offset: int, length: int) -> AsyncIterator[bytes]:
    """`length` bytes of a file. Raises OSError, also when there are fewer."""
    if not length:
        return
    file = await asyncio.to_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = offset + length
        while offset < end:
            block = await asyncio.to_thread(os.pread, file, min(_BLOCK_BYTES, end - offset), offset)
            if not block:
                raise OSError("the file is too short")
            yield block
            offset += len(block)
    finally:
        os.close(file)
