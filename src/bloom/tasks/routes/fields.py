"""Tasks, leases, results and events as the JSON that clients read."""

from typing import Any

from bloom.base.clock import to_ms, to_ms_or_none
from bloom.tasks.model import Event, Lease, RejectedResult, Result, Task


def task_fields(task: Task) -> dict[str, Any]:
    """`task` as the fields of an LLMTask."""
    fields: dict[str, Any] = {
        "id": task.id,
        "context_id": task.context_id,
        "agent_slug": task.agent_slug,
        "prompt": task.prompt,
        "context_hints": list(task.context_hints),
        "policy": {
            "timeout_sec": task.timeout_sec,
            "budget": int(task.budget) if task.budget % 1 == 0 else task.budget,
        },
        "desired_format": task.desired_format,
        "status": task.status,
        "created_at": to_ms(task.created_at),
        "updated_at": to_ms(task.updated_at),
        "lease_id": task.lease_id,
        "worker_id": task.worker_id,
        "attempts": task.attempts,
        "max_attempts": task.max_attempts,
        "priority": task.priority,
        "run_at": to_ms_or_none(task.run_at),
        "labels": list(task.labels),
        "concurrency_key": task.concurrency_key,
        "retry": {"base_sec": task.retry_base_sec, "max_sec": task.retry_max_sec},
        "cancel_requested": task.cancel_requested_at is not None,
        "request_id": task.request_id,
        "traceparent": task.traceparent,
    }
    if task.truncated:
        fields["truncated"] = True
    return fields


def lease_fields(lease: Lease) -> dict[str, Any]:
    """`lease` as the fields of a LeaseOut."""
    return {
        "id": lease.id,
        "task_id": lease.task_id,
        "worker_id": lease.worker_id,
        "started_at": to_ms(lease.started_at),
        "expires_at": to_ms(lease.expires_at),
        "ttl_seconds": lease.ttl_seconds,
        "status": lease.status,
        "last_heartbeat": to_ms_or_none(lease.last_heartbeat),
        "context_id": lease.context_id,
    }


def result_fields(result: Result) -> dict[str, Any]:
    """`result` as the fields of an LLMResult."""
    fields: dict[str, Any] = {
        "id": result.id,
        "task_id": result.task_id,
        "worker_id": result.worker_id,
        "lease_id": result.lease_id,
        "artifact_id": result.artifact_id,
        "status": result.status,
        "output": result.output,
        "error_message": result.error_message,
        "code": result.code,
        "metrics": result.metrics,
        "completed_at": to_ms(result.completed_at),
    }
    if result.truncated:
        fields["truncated"] = True
    return fields


def rejected_fields(rejected: RejectedResult) -> dict[str, Any]:
    """`rejected` as the fields of an LLMResult."""
    fields: dict[str, Any] = {
        "id": rejected.id,
        "task_id": rejected.task_id,
        "worker_id": rejected.worker_id,
        "lease_id": rejected.lease_id,
        "artifact_id": None,
        "status": rejected.status,
        "output": rejected.output,
        "error_message": rejected.error_message,
        "code": rejected.code,
        "metrics": rejected.metrics,
        "completed_at": to_ms(rejected.rejected_at),
        "rejected": True,
        "reason": rejected.reason,
    }
    if rejected.truncated:
        fields["truncated"] = True
    return fields


def event_fields(event: Event) -> dict[str, Any]:
    """`event` as the fields of an EventOut."""
    return {
        "id": event.id,
        "task_id": event.task_id,
        "lease_id": event.lease_id,
        "seq": event.seq,
        "at": to_ms(event.at),
        "type": event.type,
        "data": event.data,
    }
