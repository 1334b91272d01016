"""What becomes of leases, as metrics and spans; called after the commit that it is about."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from bloom.tasks.model import Lease, Task, TaskStatus
from bloom.tasks.store.completions import Accepted, Completion
from bloom.tasks.store.leases import Expired
from bloom.telemetry import metrics
from bloom.telemetry.tracing import record, tracing

NO_CODE = "none"

# Looking a series up by its labels takes longer than adding to it.
_attempts = cache(metrics.ATTEMPTS_ENDED.labels)
_lengths = cache(metrics.LEASE_SECONDS.labels)
_tokens = cache(metrics.TOKENS.labels)
_cost = cache(metrics.COST_USD.labels)


def lease_granted(lease: Lease, task: Task, since: datetime) -> None:
    """A lease was granted for a task that could be claimed `since` then."""
    metrics.LEASES_GRANTED.inc()
    metrics.QUEUE_WAIT_SECONDS.observe(max((lease.started_at - since).total_seconds(), 0))
    if tracing():
        about = {"bloom.task_id": task.id, "bloom.attempt": task.attempts, "bloom.worker_id": lease.worker_id}
        record("task.queue", task.traceparent, since, lease.started_at, about)
        record(
            "task.claim", task.traceparent, lease.started_at, datetime.now(UTC), {**about, "bloom.lease_id": lease.id}
        )


def report_accepted(report: Completion, accepted: Accepted) -> None:
    """A report ended a lease."""
    status = accepted.next_status
    code = NO_CODE if status is TaskStatus.COMPLETED or report.code is None else report.code
    _lease_ended(status, code, accepted.started_at, accepted.ended_at, end="reported")
    model = metrics.MODELS.bounded(report.metrics.get("model") or NO_CODE)
    if tokens := _figure(report.metrics, "tokens_used"):
        _tokens(model).inc(tokens)
    if cost := _figure(report.metrics, "cost_usd"):
        _cost(model).inc(cost)
    if tracing():
        about = {"bloom.task_id": report.task_id, "bloom.lease_id": accepted.lease_id, "bloom.outcome": status.value}
        record("task.complete", accepted.traceparent, accepted.ended_at, datetime.now(UTC), about)


def lease_expired(expired: Expired) -> None:
    """The reaper took a lease."""
    metrics.LEASES_EXPIRED.inc()
    _lease_ended(expired.next_status, "lease_expired", expired.started_at, expired.expires_at, end="expired")


def _lease_ended(status: TaskStatus, code: str, started_at: datetime, ended_at: datetime, *, end: str) -> None:
    outcome = "retried" if status is TaskStatus.QUEUED else status.value
    _attempts(outcome, metrics.CODES.bounded(code)).inc()
    _lengths(end).observe(max((ended_at - started_at).total_seconds(), 0))


def _figure(told: Mapping[str, Any], name: str) -> float:
    """What executors tell is not checked on its way: anything but a figure counts nothing."""
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return value if math.isfinite(value) and 0 < value <= 1e15 else 0
