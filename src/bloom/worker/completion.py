"""A run's end → the completion that the runtime is told: plain JSON, of a size and a form that it takes."""

from typing import Any

from bloom.base.text import make_storable
from bloom.worker.executors.interface import Report
from bloom.worker.spool import RunEntry
from bloom.worker.storable import to_storable_json

MAX_OUTPUT_BYTES = 30 * 1024 * 1024
"""Of an output as JSON: the runtime takes bodies of 32 MiB."""

_MAX_CODE = 64
_LONGEST_CHARACTER = 6  # of JSON text: an escaped control character
_MAX_MESSAGE = 16 * 1024


def completion_of(entry: RunEntry, report: Report, duration_ms: int) -> dict[str, Any]:
    """The completion for `report` of a run that took `duration_ms`. Characters that cannot be stored are replaced."""
    if report.output is not None and _is_too_large(report.output):
        # The place for `PUT /llm-tasks/{id}/output` and a completion with `output_ref`, once the runtime has them.
        return failure(
            entry,
            "output_too_large",
            f"the output has {len(report.output)} characters, more than one completion can carry (30 MiB)",
            metrics={**report.metrics, "duration_ms": duration_ms},
        )
    output, replaced = (None, 0) if report.output is None else make_storable(report.output)
    message = None if report.error_message is None else make_storable(report.error_message)[0][:_MAX_MESSAGE]
    metrics = {"duration_ms": duration_ms, **report.metrics}
    if replaced:
        metrics["replaced_characters"] = replaced
    return {
        "task_id": entry.task_id,
        "lease_id": entry.lease_id,
        "status": report.status,
        "output": output,
        "error_message": message,
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


def _is_too_large(output: str) -> bool:
    if len(output) * _LONGEST_CHARACTER <= MAX_OUTPUT_BYTES:
        return False
    return len(to_storable_json(output).encode()) > MAX_OUTPUT_BYTES
