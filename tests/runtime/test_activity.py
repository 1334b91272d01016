"""What the overview says of the last hour and of today: the audit log, folded behind its writers."""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, told

from bloom.tasks.service.activity import Activity

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def lately(runtime: Replica, *, day_began: datetime = EPOCH) -> Activity:
    """The activity, all that was committed folded in."""
    runtime.run(runtime.services.activity.fold())
    return runtime.run(runtime.services.activity.lately(day_began=day_began))


def total(found: Activity) -> dict[str, Any]:
    """The last hour, summed."""
    names = ("created", "started", "completed", "failed", "waits", "tokens", "cost_usd")
    return {name: sum(getattr(each, name) for each in found.minutes) for name in names}


def test_each_thing_that_happened_is_counted_once(runtime: Replica) -> None:
    runtime.register(slots=8)
    done, lease = runtime.leased()
    told(runtime.complete(done["id"], lease["id"], metrics={"duration_ms": 1, "tokens_used": 120, "cost_usd": 0.25}))
    failed, lease = runtime.leased()
    told(runtime.fail(failed["id"], lease["id"], metrics={"duration_ms": 1, "tokens_used": 30}))
    again, lease = runtime.leased()
    told(
        runtime.fail(
            again["id"], lease["id"], retryable=True, retry_after_sec=0, metrics={"duration_ms": 1, "tokens_used": 5}
        )
    )
    runtime.claim("worker", "one")
    expected = {"created": 3, "started": 4, "completed": 1, "failed": 1, "waits": 3, "tokens": 155, "cost_usd": 0.25}
    assert total(lately(runtime)) == expected
    assert total(lately(runtime)) == expected
    spent = lately(runtime).spent
    assert (spent.tokens, spent.cost_usd, spent.completed, spent.failed) == (155, 0.25, 1, 1)
    assert lately(runtime, day_began=datetime.now(UTC) + timedelta(days=1)).spent.tokens == 0


def test_a_wait_is_from_creation_to_the_first_lease(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task = runtime.create()
    database.edit(
        "update bloom.tasks set created_at = created_at - interval '40 seconds' where id = %(id)s", id=task["id"]
    )
    runtime.lease(task["id"])
    (minute,) = [each for each in lately(runtime).minutes if each.waits]
    assert 40 <= minute.wait_sec < 100


def test_figures_that_are_none_stop_nothing(runtime: Replica) -> None:
    runtime.register(slots=8)
    for cost in ("much", -1, 1e300, None, {"usd": 1}):
        task, lease = runtime.leased()
        told(runtime.complete(task["id"], lease["id"], metrics={"duration_ms": 1, "cost_usd": cost}))
    assert total(lately(runtime))["completed"] == 5


def test_what_commits_late_is_not_passed_over(runtime: Replica, database: FreshDatabase) -> None:
    runtime.create()
    with database.connect(autocommit=False) as late:
        late.execute(
            "insert into bloom.audit_log (action, entity_type, entity_id, actor) values ('task_created', 'task', 'late', 'x')"
        )
        runtime.create()
        assert total(lately(runtime))["created"] == 1
        late.commit()
    assert total(lately(runtime))["created"] == 3


def test_two_replicas_fold_each_entry_once(
    runtime: Replica, start_replica: StartReplica, database: FreshDatabase
) -> None:
    other = start_replica()
    for _ in range(5):
        runtime.create()
    with database.connect(autocommit=False) as holding:
        holding.execute("select from bloom.activity_position for update")
        other.run(other.services.activity.fold())  # finds another at it, and does not wait
        holding.rollback()
    assert total(lately(other))["created"] == total(lately(runtime))["created"] == 5


def test_minutes_of_more_than_400_days_ago_are_forgotten(runtime: Replica, database: FreshDatabase) -> None:
    for days in (401, 399):
        database.edit(
            "insert into bloom.activity (minute, tokens) values (date_trunc('minute', now()) - %(age)s, 7)",
            age=timedelta(days=days),
        )
    runtime.run(runtime.services.activity.forget())
    assert lately(runtime).spent.tokens == 7
