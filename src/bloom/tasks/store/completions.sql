-- Ending tasks: completion, cancellation, and the way back by requeue. Locks, and CASE where rows are named by id, as in
-- leases.sql.

-- name: complete_many
-- Accept the reports of current leases: lease, task, artifact, result and audit in one. A lease past its end that nobody
-- has reaped is still accepted. What is not returned was refused and changed nothing. A task that is handed back because
-- its worker died loses no attempt the first %(free_deaths)s times; after that it may be the task that kills them.
with input as (
    select i.*, coalesce(%(now)s::timestamptz, now()) as now
    from json_to_recordset(%(items)s) as i(
        n integer, task_id text, lease_id text, worker_id text, success boolean, hand_back boolean, retryable boolean,
        retry_after_sec double precision, output text, output_cut boolean, error_message text, code text, metrics json,
        digest text, result_id text, artifact_id text, artifact_type text, artifact_tags text[],
        size_bytes bigint, sha256 text, place text, content text, object_key text, url text, moves_to_store boolean,
        uploaded boolean, key text)
), accepted as (
    select distinct on (t.id) i.*, t.desired_format, t.status as was, t.lease_id as held_lease_id,
           t.worker_id as held_by, t.attempts, t.max_attempts, t.concurrency_key, t.traceparent, l.started_at, back.refunded,
           case when t.cancel_requested_at is not null then 'cancelled'
                when back.refunded then 'queued'
                when i.success then 'completed'
                when not i.retryable and not i.hand_back then 'failed'
                when t.attempts < t.max_attempts then 'queued'
                else 'dead' end as next_status,
           coalesce(i.retry_after_sec,
                    least(t.retry_max_sec, t.retry_base_sec * power(2, least(t.attempts - 1, 30)))
                    * (0.5 + random() / 2)) as backoff_sec
    from input i
    join bloom.tasks t on t.id = i.task_id and case when t.status in ('leased', 'running') then true end
    join bloom.leases l on l.id = t.lease_id and case l.status when 'active' then true end
    cross join lateral (
        select i.hand_back and (i.code is distinct from 'worker_died' or t.worker_deaths < %(free_deaths)s) as refunded
    ) back
    where (i.lease_id is null or i.lease_id = t.lease_id) and (i.worker_id is null or i.worker_id = t.worker_id)
      and (i.uploaded is not true or exists (
          select from bloom.uploads u
          where u.id = i.artifact_id and u.lease_id = t.lease_id and u.received = i.size_bytes and u.sha256 = i.sha256))
    order by t.id, i.n
), ended as (
    update bloom.leases l
    set status = case when a.next_status = 'completed' or a.next_status = 'cancelled' or a.refunded
                      then 'released' else 'failed' end,
        ended_at = a.now
    from accepted a where l.id = a.held_lease_id and case l.status when 'active' then true end
    returning l.id
), moved as (
    update bloom.tasks t
    set status = a.next_status, updated_at = a.now,
        attempts = t.attempts - case when a.refunded and a.next_status = 'queued' then 1 else 0 end,
        worker_deaths = t.worker_deaths + case when a.refunded and a.code = 'worker_died' then 1 else 0 end,
        due = a.next_status <> 'queued' or a.refunded or a.backoff_sec <= 0,
        run_at = case when a.next_status = 'queued' and not a.refunded
                      then a.now + make_interval(secs => a.backoff_sec) else t.run_at end,
        lease_id = case when a.next_status = 'queued' then null else t.lease_id end,
        worker_id = case when a.next_status = 'queued' then null else t.worker_id end
    from accepted a where t.id = a.task_id and t.lease_id = a.held_lease_id
    returning a.n, a.now, a.task_id, a.held_lease_id, a.held_by, a.next_status, a.refunded, a.artifact_id, a.code, a.key,
              a.concurrency_key, a.started_at, a.traceparent, t.attempts, t.run_at
), stored as (
    insert into bloom.artifacts (id, task_id, job_id, type, tags, content_type, size_bytes, sha256, place, content,
                                 object_key, url, moves_to_store, created_at)
    select artifact_id, task_id, task_id, artifact_type, artifact_tags,
           case desired_format when 'json' then 'application/json' else 'text/plain; charset=utf-8' end, size_bytes, sha256, place, content,
           object_key, url, moves_to_store, now
    from accepted where next_status = 'completed'
    order by n
    returning id
), kept as (
    update bloom.uploads u set kept = true
    from accepted a where u.id = a.artifact_id and a.uploaded and a.place = 'chunks' and a.next_status = 'completed'
), copied as (
    delete from bloom.uploads u
    using accepted a where u.id = a.artifact_id and a.uploaded and a.place = 'inline' and a.next_status = 'completed'
), reported as (
    insert into bloom.results (id, task_id, lease_id, worker_id, artifact_id, status, output, output_cut, error_message,
                               code, metrics, digest, completed_at)
    select result_id, task_id, held_lease_id, held_by, case when next_status = 'completed' then artifact_id end,
           case when next_status = 'completed' then 'success' else 'error' end,
           case when next_status = 'completed' and place = 'inline' then null else coalesce(output, content) end,
           output_cut,
           case when next_status = 'cancelled' and success then 'The task was cancelled.' else error_message end,
           case when next_status = 'cancelled' then 'cancelled' else code end,
           metrics, decode(digest, 'hex'), now
    from accepted
    where not (refunded and next_status = 'queued')
    order by n
    returning id
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select now,
           case next_status when 'queued' then 'task_retried' when 'dead' then 'task_dead'
                            when 'cancelled' then 'task_cancelled' else 'task_completed' end,
           'task', task_id, 'worker:' || held_by,
           json_strip_nulls(json_build_object(
               'lease_id', held_lease_id, 'status', next_status, 'code', code,
               'artifact_id', case when next_status = 'completed' then artifact_id end,
               'attempts', attempts,
               'reason', case when refunded and next_status = 'queued' then 'handed_back' end, 'key', key))
    from moved
    order by n
), counted as (
    insert into bloom.counts (leased, running, queued, completed, failed, dead, cancelled)
    select -count(*) filter (where was = 'leased'), -count(*) filter (where was = 'running'),
           count(*) filter (where next_status = 'queued'), count(*) filter (where next_status = 'completed'),
           count(*) filter (where next_status = 'failed'), count(*) filter (where next_status = 'dead'),
           count(*) filter (where next_status = 'cancelled')
    from accepted having count(*) > 0
)
select n, task_id, held_lease_id as lease_id, held_by as worker_id, next_status, run_at as runs_at, artifact_id, started_at,
       now as ended_at, traceparent, concurrency_key is not null and next_status <> 'queued' as ends_turn
from moved;

-- name: results_by_leases
-- The results that these leases ended with; output of inline artifacts is read from there. A lease that ended with an error
-- and did not fail was cancelled.
select r.id, r.task_id, r.lease_id, r.worker_id, r.artifact_id, r.status, coalesce(r.output, a.content) as output,
       r.error_message, r.code, r.metrics, r.completed_at, r.output_cut as truncated, encode(r.digest, 'hex') as digest,
       r.status = 'error' and l.status = 'released' as cancelled
from bloom.results r join bloom.leases l on l.id = r.lease_id left join bloom.artifacts a on a.id = r.artifact_id
where r.lease_id = any(%(lease_ids)s);

-- name: results_by_task
-- The results of one task, oldest first, outputs cut to %(cut)s characters.
select r.id, r.task_id, r.lease_id, r.worker_id, r.artifact_id, r.status,
       left(coalesce(r.output, a.content), %(cut)s) as output, r.error_message, r.code, r.metrics, r.completed_at,
       r.output_cut or coalesce(length(coalesce(r.output, a.content)) > %(cut)s, false) as truncated
from bloom.results r left join bloom.artifacts a on a.id = r.artifact_id
where r.task_id = %(task_id)s
order by r.completed_at, r.id;

-- name: result_by_id
-- One result of a task, with all that is kept of its output.
select r.id, r.task_id, r.lease_id, r.worker_id, r.artifact_id, r.status, coalesce(r.output, a.content) as output,
       r.error_message, r.code, r.metrics, r.completed_at, r.output_cut as truncated
from bloom.results r left join bloom.artifacts a on a.id = r.artifact_id
where r.id = %(id)s and r.task_id = %(task_id)s;

-- name: cancel
-- Cancel a locked task: at once while it is queued, else its worker is told. `held` keeps its state and is marked.
with cancelled as (
    update bloom.tasks
    set status = 'cancelled', updated_at = coalesce(%(now)s::timestamptz, now()), due = true
    where id = %(id)s and case status when 'queued' then true end
    returning id
), marked as (
    update bloom.tasks
    set cancel_requested_at = coalesce(%(now)s::timestamptz, now()), updated_at = coalesce(%(now)s::timestamptz, now())
    where id = %(id)s and case when status in ('leased', 'running') then cancel_requested_at is null end
    returning id, lease_id
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select coalesce(%(now)s::timestamptz, now()), 'task_cancelled', 'task', id, %(actor)s, '{}'::json from cancelled
    union all
    select coalesce(%(now)s::timestamptz, now()), 'task_cancel_requested', 'task', id, %(actor)s,
           json_build_object('lease_id', lease_id) from marked
), counted as (
    insert into bloom.counts (queued, cancelled) select -count(*), count(*) from cancelled having count(*) > 0
)
select id from cancelled union all select id from marked;

-- name: requeue
-- Put a failed, dead or cancelled (and locked) task back into the queue with all its attempts.
with requeued as (
    update bloom.tasks t
    set status = 'queued', attempts = 0, worker_deaths = 0, run_at = null, due = true, turn = true, lease_id = null,
        worker_id = null, cancel_requested_at = null, updated_at = coalesce(%(now)s::timestamptz, now())
    from bloom.tasks old
    where t.id = %(id)s and case when t.status in ('failed', 'dead', 'cancelled') then true end and old.id = t.id
    returning t.id, old.status as was
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor)
    select coalesce(%(now)s::timestamptz, now()), 'task_requeued', 'task', id, %(actor)s from requeued
), counted as (
    insert into bloom.counts (queued, failed, dead, cancelled)
    select count(*), -count(*) filter (where was = 'failed'), -count(*) filter (where was = 'dead'),
           -count(*) filter (where was = 'cancelled')
    from requeued having count(*) > 0
)
select id from requeued;
