"""What a caller is told when a task does not allow what was asked."""

from bloom.base.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from bloom.tasks.model import TaskStatus


def task_not_found(task_id: str) -> NotFound:
    """There is no such task."""
    return NotFound(f"There is no task {task_id!r}.", code="task_not_found")


def result_not_found(result_id: str) -> NotFound:
    """There is no such result of this task."""
    return NotFound(f"There is no result {result_id!r} of this task.", code="result_not_found")


def not_queued(status: TaskStatus) -> Conflict:
    """Only a queued task can be leased."""
    return Conflict(f"The task is {status}; only a queued task can be leased.", code="not_queued", status=status)


def not_due() -> Conflict:
    """Its `run_at` lies ahead."""
    return Conflict("The task is not due yet; its run_at lies ahead.", code="not_due")


def busy() -> Conflict:
    """Another task of its concurrency key goes first."""
    return Conflict("Another task with the same concurrency_key goes before this one.", code="busy")


def lease_lost() -> Conflict:
    """Whoever holds another lease, or none, changes nothing."""
    return Conflict("This lease is not the task's current one any more; nothing was changed.", code="lease_lost")


def not_its_task() -> Forbidden:
    """A worker's key learns nothing of a task that its worker never held, not even whether there is one."""
    return Forbidden("A worker's key may use only tasks that its worker holds or held.")


def cancelled() -> Conflict:
    """A person asked for the end of this task."""
    return Conflict("The task was cancelled; stop working on it.", code="cancelled")


def not_held(status: TaskStatus) -> Conflict:
    """No worker holds the task."""
    return Conflict(f"The task is {status}; no lease of it is active.", code="not_leased", status=status)


def already_completed() -> Conflict:
    """This lease was completed with another report."""
    return Conflict("This lease was completed before, with another report.", code="already_completed")


def offset_mismatch(received: int, output_ref: str) -> Conflict:
    """An upload goes on where it was cut."""
    return Conflict(
        f"{received} bytes of this output were received; go on there, or begin anew with offset=0&restart=true.",
        code="offset_mismatch",
        received=received,
        output_ref=output_ref,
    )


def invalid_output() -> InvalidInput:
    """Artifacts are text."""
    return InvalidInput("The output must be UTF-8 text without NUL characters", code="invalid_output")


def output_mismatch() -> Conflict:
    """What was uploaded is not what the completion names."""
    return Conflict(
        "What was uploaded under this output_ref is not the output of this lease with this size and SHA-256; upload it again "
        "(offset=0&restart=true).",
        code="output_mismatch",
    )


def no_free_worker() -> Unavailable:
    """The router found no worker."""
    return Unavailable(
        "No worker is free for this task: none is online with a free slot and the labels it asks for.",
        code="no_free_worker",
        retry_after_sec=5,
    )


def worker_not_free(worker_id: str, reason: str) -> Unavailable:
    """The worker that was named cannot take it."""
    return Unavailable(f"Worker {worker_id!r} {reason}.", code="worker_not_free", retry_after_sec=5)
