"""A run's end → the completion that the runtime is told: plain JSON, of a size and a form that it takes."""

import hashlib
import os
from pathlib import Path
from typing import Any

from bloom.base.text import make_storable
from bloom.worker.durable import write_all
from bloom.worker.executors.interface import Report
from bloom.worker.spool import RunEntry
from bloom.worker.storable import to_storable_json

LARGE_OUTPUT_BYTES = 8 * 1024 * 1024
"""Of an output as JSON. A longer one is kept in a file and uploaded by itself, before its completion."""

MAX_ERROR_OUTPUT_CHARS = 1024 * 1024 + 1
"""Of the output of an error the runtime keeps one character less, and so knows that it was cut."""

_MAX_CODE = 64
_LONGEST_CHARACTER = 6  # of JSON text: an escaped control character
_MAX_MESSAGE = 16 * 1024


def completion_of(entry: RunEntry, report: Report, duration_ms: int, output_path: Path) -> dict[str, Any]:
    """The completion for `report` of a run that took `duration_ms`. Characters that cannot be stored are replaced.

    A large output of a success is in the file `output_path` then, whence it is uploaded; the completion has its size and
    digest. When the disk does not take it, this is an error completion.
    """
    output, in_output = make_storable(report.output or "")
    message, in_message = make_storable(report.error_message or "")
    metrics = {"duration_ms": duration_ms, **report.metrics}
    if replaced := metrics.get("replaced_characters", 0) + in_output + in_message:
        metrics["replaced_characters"] = replaced
    apart: dict[str, Any] = {"output": None if report.output is None else output}
    if report.status == "error":
        apart = {"output": None if report.output is None else output[:MAX_ERROR_OUTPUT_CHARS]}
    elif report.output_path is not None or _is_large(output):
        try:
            if report.output_path is None:
                _write(output_path, output)
            apart = {"output": None, **_size_and_digest(output_path)}
        except OSError as error:
            why = f"the worker's disk does not take the output ({error.strerror})"
            return failure(entry, "output_not_kept", why, retryable=True, metrics=metrics)
    return {
        "task_id": entry.task_id,
        "lease_id": entry.lease_id,
        "status": report.status,
        **apart,
        "error_message": None if report.error_message is None else message[:_MAX_MESSAGE],
        "code": make_storable(report.code)[0][:_MAX_CODE] if report.code else None,
        "retryable": report.retryable,
        "retry_after_sec": report.retry_after_sec,
        "metrics": metrics,
    }


def failure(
    entry: RunEntry,
    code: str,
    message: str,
    *,
    retryable: bool = False,
    hand_back: bool = False,
    metrics: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An error completion of the daemon's own. `hand_back`: the task is queued again at once, as if never leased."""
    return {
        "task_id": entry.task_id,
        "lease_id": entry.lease_id,
        "status": "error",
        "error_message": message,
        "code": code,
        "retryable": retryable or hand_back,
        "hand_back": hand_back,
        "metrics": {"duration_ms": 0, **(metrics or {})},
    }


def hand_back(entry: RunEntry, message: str, *, metrics: dict[str, Any] | None = None) -> dict[str, Any]:
    """The completion that returns a task which this worker cannot run to its end, through no fault of the task."""
    return failure(entry, "interrupted", message, hand_back=True, metrics=metrics)


def _is_large(output: str) -> bool:
    if len(output) * _LONGEST_CHARACTER <= LARGE_OUTPUT_BYTES:
        return False
    return len(to_storable_json(output).encode()) > LARGE_OUTPUT_BYTES


def _write(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(file, text.encode())
    finally:
        os.close(file)


def _size_and_digest(path: Path) -> dict[str, Any]:
    """What a completion says of the output in a file, which then survives a loss of power."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        return {"output_size": file.tell(), "output_sha256": digest.hexdigest()}
