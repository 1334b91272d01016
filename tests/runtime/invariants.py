"""What must hold in the tables whenever no transaction is under way, whatever happened before."""

from typing import LiteralString

from tests.real_postgres import FreshDatabase

# Each query tells what breaks the invariant: a row, of one column, is a violation.
_VIOLATIONS: dict[LiteralString, LiteralString] = {
    "an artifact belongs to one successful result": """
        select a.id from bloom.artifacts a left join bloom.results r on r.artifact_id = a.id and r.status = 'success'
        group by a.id having count(r.id) <> 1""",
    "a successful result has an artifact, another has none": """
        select id from bloom.results where (status = 'success') <> (artifact_id is not null)""",
    "a task is completed exactly when it has one successful result": """
        select t.id from bloom.tasks t left join bloom.results r on r.task_id = t.id and r.status = 'success'
        group by t.id having count(r.id) <> (t.status = 'completed')::int""",
    "a worker holds a task exactly while the lease of the task is active": """
        select t.id from bloom.tasks t
        full join (select * from bloom.leases where status = 'active') l on l.id = t.lease_id and l.task_id = t.id
        where (t.status in ('leased', 'running')) is distinct from (l.id is not null)
           or (l.id is not null and l.worker_id is distinct from t.worker_id)""",
    "a queued task names no lease and no worker": """
        select id from bloom.tasks
        where status = 'queued' and (lease_id is not null or worker_id is not null or cancel_requested_at is not null)""",
    "attempts are between none and the limit": """
        select id from bloom.tasks
        where attempts not between 0 and max_attempts or (status in ('leased', 'running') and attempts = 0)""",
    "a dead task has used all its attempts": """
        select id from bloom.tasks where status = 'dead' and attempts <> max_attempts""",
    "only a held or cancelled task was asked to end": """
        select id from bloom.tasks
        where cancel_requested_at is not null and status not in ('leased', 'running', 'cancelled')""",
    "a task that waits for its time has one": """
        select id from bloom.tasks where not due and (run_at is null or status <> 'queued')""",
    "a worker holds no more than its slots": """
        select l.worker_id from bloom.leases l left join bloom.workers w on w.id = l.worker_id where l.status = 'active'
        group by l.worker_id, w.max_concurrency having count(*) > coalesce(w.max_concurrency, 0)""",
    "a result is of a lease that has ended, of the same task and worker": """
        select r.id from bloom.results r join bloom.leases l on l.id = r.lease_id
        where l.status not in ('released', 'failed') or l.task_id <> r.task_id or l.worker_id <> r.worker_id""",
    "the last word of the audit log on a task is its state": """
        select t.id from bloom.tasks t left join lateral (
            select case a.action
                when 'task_created' then 'queued' when 'task_requeued' then 'queued' when 'task_retried' then 'queued'
                when 'task_leased' then 'held' when 'task_cancel_requested' then 'held'
                when 'task_completed' then a.detail ->> 'status' when 'task_dead' then 'dead'
                when 'task_cancelled' then 'cancelled' end as state
            from bloom.audit_log a where a.entity_id = t.id order by a.id desc limit 1
        ) told on true
        where told.state is distinct from (case when t.status in ('leased', 'running') then 'held' else t.status end)""",
    "a task was created once in the audit log": """
        select t.id from bloom.tasks t left join bloom.audit_log a on a.entity_id = t.id and a.action = 'task_created'
        group by t.id having count(a.id) <> 1""",
    "each lease was granted once in the audit log": """
        select l.id from bloom.leases l
        left join bloom.audit_log a on a.action = 'task_leased' and a.detail ->> 'lease_id' = l.id and a.entity_id = l.task_id
        group by l.id having count(a.id) <> 1""",
    "the end of each lease is told once in the audit log": """
        select l.id from bloom.leases l left join bloom.audit_log a
          on a.action in ('task_completed', 'task_retried', 'task_dead', 'task_cancelled')
         and a.detail ->> 'lease_id' = l.id and a.entity_id = l.task_id
        group by l.id having count(a.id) <> (l.status <> 'active')::int""",
    "the events of a lease come without a gap": """
        select lease_id from bloom.task_events group by lease_id having max(seq) - min(seq) + 1 <> count(*) or min(seq) > 1""",
    "the events of a task are counted from 1 without a gap": """
        select task_id from bloom.task_events group by task_id having max(id) <> count(*) or min(id) <> 1""",
    "the content of an artifact is whole": """
        select a.id from bloom.artifacts a left join bloom.upload_chunks c on c.upload_id = a.id
        group by a.id having case a.place
            when 'inline' then octet_length(a.content) <> a.size_bytes or count(c.n) <> 0
            when 'chunks' then sum(octet_length(c.data)) is distinct from a.size_bytes or max(c.n) + 1 <> count(c.n)
            else count(c.n) <> 0 end""",
    "tasks that share a concurrency key run one at a time": """
        select concurrency_key from bloom.tasks where status in ('leased', 'running') and concurrency_key is not null
        group by concurrency_key having count(*) > 1""",
}

# One question, so that all are asked of the same moment.
_ALL: LiteralString = " union all ".join(
    f"select '{invariant}' as invariant, breaks::text from ({query}) as v(breaks)"  # noqa: S608 (all of it is above)
    for invariant, query in _VIOLATIONS.items()
)


def check_invariants(database: FreshDatabase) -> None:
    """Fail, naming every invariant that does not hold and what breaks it."""
    assert not (broken := violations(database)), broken


def violations(database: FreshDatabase) -> dict[str, list[str]]:
    """What breaks which invariant."""
    found: dict[str, list[str]] = {}
    for row in database.rows(_ALL):
        found.setdefault(row["invariant"], []).append(row["breaks"])
    return found
