"""What becomes of one task: the rows that it is here, and a history that leads to them.

A run that had not come to its end has not been: its task goes back into the queue. A result that is whole counts, even where
the predecessor died before it said so. Each lease is kept as a run that has ended; where it kept fewer than it counted, the
missing ones are made up, since here an attempt is a lease.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bloom.predecessor.rows import Row, fields, moment, structure, text, texts, whole

Note = Callable[[str, str, Sequence[str]], None]
"""Reports rows of a table that are left or changed: table, why, ids."""

STATES = frozenset({"queued", "leased", "running", "completed", "failed", "dead", "cancelled"})
_ENDED = frozenset({"failed", "dead", "cancelled"})
_LEASE_ENDS = frozenset({"released", "expired", "failed"})
_NOT_TAKEN = "not taken: "


@dataclass(frozen=True, slots=True)
class Found:
    """A task of the predecessor with all that belongs to it, oldest first."""

    task: Row
    leases: Sequence[Row]
    results: Sequence[Row]
    artifacts: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Success:
    """The result that a task is completed by. One of both is None where the predecessor lost it, and is made of the other."""

    result: Row | None
    artifact: Row | None


@dataclass(slots=True)
class Planned:
    """Rows of the tables here, less the content of the artifact."""

    task: dict[str, Any]
    leases: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    results: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    artifact: dict[str, Any] | None = None
    audit: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def problem_of(task: Row) -> str | None:
    """Why a task cannot be taken at all, None when it can."""
    if not text(task, "id"):
        return _NOT_TAKEN + "it has no id"
    if task.get("prompt") is None:
        return _NOT_TAKEN + "it has no prompt"
    if task.get("status") not in STATES:
        return _NOT_TAKEN + "its status is unknown here"
    return None


def success_of(found: Found) -> Success | None:
    """What completes the task, None when nothing does: the first whole result, whatever the task's state says of a run
    under way. Where the task is said to be completed, an artifact alone is enough.
    """
    if found.task["status"] in _ENDED:
        return None
    artifacts = {str(row["id"]): row for row in found.artifacts}
    for result in found.results:
        if result.get("status") == "success":
            artifact = artifacts.get(str(result.get("artifact_id"))) or next(iter(found.artifacts), None)
            if artifact is not None or result.get("output") is not None:
                return Success(result, artifact)
    if found.task["status"] == "completed" and found.artifacts:
        return Success(None, found.artifacts[0])
    return None


def plan(found: Found, success: Success | None, note: Note) -> Planned:
    """The rows. `note` is told what is not as it was."""
    task, task_id = found.task, str(found.task["id"])
    status = _status(task, success, note)
    most = whole(task, "max_attempts", least=1, most=10, default=3)
    attempts = whole(task, "attempts", least=0, most=most, default=0)
    if status in ("completed", "failed"):
        attempts = max(attempts, 1)
    elif status == "dead":
        attempts = most
    elif status == "queued":
        attempts = min(attempts, most - 1)  # else nobody could run it
    policy = fields(task, "policy")
    budget = policy.get("budget")
    planned = Planned(
        {
            "id": task_id,
            "context_id": text(task, "context_id") or task_id,
            "agent_slug": text(task, "agent_slug") or "default",
            "prompt": text(task, "prompt"),
            "context_hints": texts(task, "context_hints"),
            "timeout_sec": whole(policy, "timeout_sec", least=1, most=3600, default=120),
            "budget": budget if isinstance(budget, int | float) and budget >= 0 else 0,
            "desired_format": "json" if task.get("desired_format") == "json" else "text",
            "status": status,
            "attempts": attempts,
            "max_attempts": most,
            "lease_id": None,
            "worker_id": None,
            "created_at": moment(task, "created_at"),
            "updated_at": moment(task, "updated_at"),
        }
    )
    last = _last_lease(found, success)
    planned.leases = [_lease(planned.task, row) for row in found.leases if row is not last]
    if last is not None:
        planned.leases.append(_lease(planned.task, last))
    _make_up(planned, found, success, note)
    if status in ("completed", "failed", "dead"):
        planned.task |= {
            name: planned.leases[-1][key] for name, key in (("lease_id", "id"), ("worker_id", "worker_id"))
        }
    if success is not None:
        _succeed(planned, success, note)
    _fail(planned, found, note)
    _leave(found, success, note)
    _tell(planned)
    return planned


def _status(task: Row, success: Success | None, note: Note) -> str:
    task_id, status = str(task["id"]), str(task["status"])
    if success is not None:
        if status != "completed":
            note("llm_tasks", f"{status}, with a whole result: completed here", [task_id])
        return "completed"
    if status in ("leased", "running"):
        note("llm_tasks", "leased or running, without a whole result: queued here", [task_id])
        return "queued"
    if status == "completed":
        note("llm_tasks", "completed, without a result or an output: queued here", [task_id])
        return "queued"
    return status


def _last_lease(found: Found, success: Success | None) -> Row | None:
    """The lease under which the task ended: that of the result's worker, and that which the task names, go first."""
    worker = None if success is None or success.result is None else success.result.get("worker_id")
    named = found.task.get("lease_id")
    return max(found.leases, key=lambda row: (row.get("worker_id") == worker, row.get("id") == named), default=None)


def _lease(task: dict[str, Any], row: Row) -> dict[str, Any]:
    status = row.get("status")
    ended = moment(row, "last_heartbeat") or moment(row, "expires_at") or moment(row, "started_at")
    return {
        "id": str(row["id"]),
        "task_id": task["id"],
        "worker_id": text(row, "worker_id") or "unknown",
        "context_id": task["context_id"],
        "status": status if status in _LEASE_ENDS else "expired",
        "started_at": moment(row, "started_at"),
        "expires_at": moment(row, "expires_at"),
        "ttl_seconds": whole(row, "ttl_seconds", least=1, most=86_400, default=300),
        "last_heartbeat": moment(row, "last_heartbeat"),
        "ended_at": ended,
    }


def _make_up(planned: Planned, found: Found, success: Success | None, note: Note) -> None:
    """Leases for the attempts that have none, before those that are there."""
    active = [str(row["id"]) for row in found.leases if row.get("status") not in _LEASE_ENDS]
    if active:
        note("leases", "active: ended here, expired", active)
    missing = planned.task["attempts"] - len(planned.leases)
    if missing <= 0:
        return
    result = None if success is None else success.result
    named = (result or {}).get("worker_id") or found.task.get("worker_id") or "unknown"
    row = {"worker_id": named, "started_at": found.task.get("created_at"), "expires_at": found.task.get("updated_at")}
    made = [_lease(planned.task, {**row, "id": f"{planned.task['id']}:lease-{n}"}) for n in range(1, missing + 1)]
    planned.leases = made + planned.leases
    note("llm_tasks", "has fewer leases than attempts: the missing ones are made up", [planned.task["id"]])


def _succeed(planned: Planned, success: Success, note: Note) -> None:
    result, artifact, lease, task = success.result, success.artifact, planned.leases[-1], planned.task
    if artifact is None:
        assert result is not None  # noqa: S101
        note("llm_results", "success without its artifact: one is made of the output", [str(result["id"])])
    if result is None:
        assert artifact is not None  # noqa: S101
        note("runtime_artifacts", "of a completed task without a result: one is made of it", [str(artifact["id"])])
    made = artifact or {"id": f"{(result or {})['id']}:output", "created_at": (result or {}).get("completed_at")}
    told = result or {"id": f"{made['id']}:result", "completed_at": made.get("created_at")}
    refs = structure(made, "entity_refs")
    planned.artifact = {
        "id": str(made["id"]),
        "task_id": task["id"],
        "job_id": text(made, "job_id") or task["id"],
        "type": text(made, "type") or "LLM_RESULT",
        "tags": texts(made, "tags"),
        "entity_refs": refs if isinstance(refs, list) else [],
        "content_type": "application/json" if task["desired_format"] == "json" else "text/plain; charset=utf-8",
        "created_at": moment(made, "created_at") or moment(told, "completed_at"),
    }
    planned.results.append(_result(told, lease, "success", planned.artifact["id"], note))


def _fail(planned: Planned, found: Found, note: Note) -> None:
    """Errors go to the runs that have no result yet, the last error to the last run where that failed."""
    errors = [row for row in found.results if row.get("status") != "success"]
    taken = {row["lease_id"] for row in planned.results}
    free = [lease for lease in planned.leases if lease["id"] not in taken]
    for row in reversed(errors):
        if not free:
            note("llm_results", _NOT_TAKEN + "there are more results than runs", [str(row["id"])])
            continue
        lease = free[-1]
        if planned.task["lease_id"] != lease["id"]:
            lease = next((each for each in reversed(free) if each["worker_id"] == row.get("worker_id")), lease)
        free.remove(lease)
        planned.results.append(_result(row, lease, "error", None, note))


def _result(row: Row, lease: dict[str, Any], status: str, artifact_id: str | None, note: Note) -> dict[str, Any]:
    if row.get("worker_id") not in (None, lease["worker_id"]):
        note(
            "llm_results",
            "booked to another worker than the one that held the lease: to that one here",
            [str(row["id"])],
        )
    completed = moment(row, "completed_at")
    lease |= {"status": "released" if status == "success" else "failed", "ended_at": completed or lease["ended_at"]}
    return {
        "id": str(row["id"]),
        "task_id": lease["task_id"],
        "lease_id": lease["id"],
        "worker_id": lease["worker_id"],
        "artifact_id": artifact_id,
        "status": status,
        "output": text(row, "output"),
        "output_cut": False,
        "error_message": text(row, "error_message"),
        "metrics": fields(row, "metrics"),
        "completed_at": completed,
    }


def _leave(found: Found, success: Success | None, note: Note) -> None:
    result, artifact = (None, None) if success is None else (success.result, success.artifact)
    spare = [str(row["id"]) for row in found.results if row.get("status") == "success" and row is not result]
    if spare:
        note("llm_results", _NOT_TAKEN + "a success that its task did not end with", spare)
    spare = [str(row["id"]) for row in found.artifacts if row is not artifact]
    if spare:
        note("runtime_artifacts", _NOT_TAKEN + "of no successful result", spare)


def _tell(planned: Planned) -> None:
    """The audit entries: each lease granted and ended, the last attempts counted as the task counts them."""
    task, count = planned.task, len(planned.leases)

    def tell(action: str, **detail: Any) -> None:
        planned.audit.append({"action": action, "task_id": task["id"], "detail": {**detail, "imported": True}})

    tell("task_created", context_id=task["context_id"], agent_slug=task["agent_slug"])
    for number, lease in enumerate(planned.leases):
        held = {"lease_id": lease["id"], "worker_id": lease["worker_id"]}
        before, after = (max(0, task["attempts"] - left) for left in (count - number, count - number - 1))
        tell("task_leased", **held, attempt=before + 1)
        if lease["id"] != task["lease_id"]:
            tell("task_retried", **held, status="queued", attempts=after, reason="handed_back")
        elif task["status"] == "dead":
            tell("task_dead", **held, status="dead", attempts=after)
        else:
            named = {"artifact_id": planned.artifact["id"]} if planned.artifact is not None else {}
            tell("task_completed", **held, status=task["status"], attempts=after, **named)
    if task["status"] == "cancelled":
        tell("task_cancelled")
