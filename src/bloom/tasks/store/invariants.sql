-- What must hold in the tables whenever no transaction is under way, whatever happened before. Each block but the first lists
-- what breaks one invariant, a row of one column each; its first line says the invariant. None costs more than a few sorts
-- of its largest table.

-- name: count_broken
-- How many rows break an invariant, whose query stands in the place of the comment, and the first of their ids.
with broken(id) as materialized (/* query */)
select count(*) as rows, array(select id from broken order by id limit %(shown)s) as ids from broken

-- name: artifact_has_its_result
-- Each artifact belongs to one successful result.
select a.id from bloom.artifacts a left join bloom.results r on r.artifact_id = a.id and r.status = 'success'
group by a.id having count(r.id) <> 1

-- name: success_has_its_artifact
-- A successful result has an artifact, another has none.
select id from bloom.results where (status = 'success') <> (artifact_id is not null)

-- name: completed_once
-- A task is completed exactly when it has one successful result.
select t.id from bloom.tasks t left join bloom.results r on r.task_id = t.id and r.status = 'success'
group by t.id having count(r.id) <> (t.status = 'completed')::int

-- name: held_by_its_lease
-- A worker holds a task exactly while the lease of the task is active.
select coalesce(t.id, l.task_id) from bloom.tasks t
full join (select * from bloom.leases where status = 'active') l on l.id = t.lease_id and l.task_id = t.id
where (t.status in ('leased', 'running')) is distinct from (l.id is not null)
   or (l.id is not null and l.worker_id is distinct from t.worker_id)

-- name: lease_is_its_own
-- The lease that a task names is its own.
select t.id from bloom.tasks t left join bloom.leases l on l.id = t.lease_id and l.task_id = t.id
where t.lease_id is not null and l.worker_id is distinct from t.worker_id

-- name: queued_is_free
-- A queued task names no lease and no worker.
select id from bloom.tasks
where status = 'queued' and (lease_id is not null or worker_id is not null or cancel_requested_at is not null)

-- name: attempts_in_range
-- Attempts are between none and the limit, and a held task has one.
select id from bloom.tasks
where attempts not between 0 and max_attempts or (status in ('leased', 'running') and attempts = 0)

-- name: dead_after_all_attempts
-- A dead task has used all its attempts.
select id from bloom.tasks where status = 'dead' and attempts <> max_attempts

-- name: cancel_of_held
-- Only a held or cancelled task was asked to end.
select id from bloom.tasks
where cancel_requested_at is not null and status not in ('leased', 'running', 'cancelled')

-- name: waits_for_a_time
-- A task that waits for its time is queued and has one.
select id from bloom.tasks where not due and (run_at is null or status <> 'queued')

-- name: lease_has_its_worker
-- The worker of each active lease is registered.
select l.id from bloom.leases l where l.status = 'active' and not exists (
    select from bloom.workers w where w.id = l.worker_id)

-- name: within_slots
-- No lease was ever granted to a worker beyond the slots that it had told: the audit log from its first entry on.
-- The grant is written under the lock of the worker, and after whatever it counted as ended. Entries that do not tell the
-- slots, as older releases wrote them, allow the most there can be.
with moved as (
    select a.id, a.action = 'task_leased' as granted, a.detail ->> 'lease_id' as lease_id,
           a.detail ->> 'worker_id' as worker_id
    from bloom.audit_log a
    where a.action in ('task_leased', 'task_completed', 'task_retried', 'task_dead', 'task_cancelled')
), lease as (
    select lease_id, max(worker_id) filter (where granted) as worker_id, min(id) filter (where granted) as began,
           max(id) filter (where not granted) as ended
    from moved where lease_id is not null group by lease_id
), step as (
    select worker_id, began as id, 1 as change, null::integer as slots from lease where began is not null
    union all
    select worker_id, ended, -1, null from lease where began is not null and ended is not null
    union all
    select entity_id, id, 0, coalesce((detail ->> 'slots')::integer, 32) from bloom.audit_log
    where action in ('worker_registered', 'worker_updated')
), counted as (
    select worker_id, id, change, slots, sum(change) over told as held, count(slots) over told as word
    from step window told as (partition by worker_id order by id)
), judged as (
    select worker_id, change, held, coalesce(first_value(slots) over (partition by worker_id, word order by id), 32) as slots
    from counted
)
select distinct worker_id from judged where change = 1 and held > slots

-- name: result_of_an_ended_lease
-- A result is of a lease that has ended, of the same task and worker.
select r.id from bloom.results r join bloom.leases l on l.id = r.lease_id
where l.status not in ('released', 'failed') or l.task_id <> r.task_id or l.worker_id <> r.worker_id

-- name: rejected_result_of_a_lost_lease
-- A rejected result is of a lease that has ended without a result, of the same task and worker.
select x.id from bloom.rejected_results x join bloom.leases l on l.id = x.lease_id
left join bloom.results r on r.lease_id = x.lease_id
where l.status = 'active' or l.task_id <> x.task_id or l.worker_id <> x.worker_id or r.id is not null

-- name: state_is_audited
-- The last word of the audit log on a task is its state, and the number of its attempts.
select t.id
from bloom.tasks t left join (
    select distinct on (entity_id) entity_id,
           case action
               when 'task_created' then 'queued' when 'task_requeued' then 'queued' when 'task_retried' then 'queued'
               when 'task_leased' then 'held' when 'task_cancel_requested' then 'held'
               when 'task_completed' then detail ->> 'status' when 'task_dead' then 'dead'
               when 'task_cancelled' then 'cancelled' end as state,
           (detail ->> case action when 'task_leased' then 'attempt' else 'attempts' end)::integer as attempts
    from bloom.audit_log where entity_type = 'task' order by entity_id, id desc
) told on told.entity_id = t.id
where told.state is distinct from (case when t.status in ('leased', 'running') then 'held' else t.status end)
   or told.attempts <> t.attempts

-- name: no_task_is_lost
-- A task that was created is there, unless the audit log says that it was pruned.
select a.entity_id from bloom.audit_log a
where a.action = 'task_created' and not exists (select from bloom.tasks t where t.id = a.entity_id)
  and not exists (
      select from bloom.audit_log p cross join json_array_elements_text(p.detail -> 'task_ids') as pruned(id)
      where p.action = 'tasks_pruned' and pruned.id = a.entity_id)

-- name: only_ended_tasks_are_pruned
-- The last word of the audit log on a task that was pruned is that it has ended.
select told.entity_id from (
    select distinct on (a.entity_id) a.entity_id, a.action
    from bloom.audit_log a
    where a.entity_type = 'task' and a.entity_id in (
        select pruned.id
        from bloom.audit_log p cross join json_array_elements_text(p.detail -> 'task_ids') as pruned(id)
        where p.action = 'tasks_pruned')
    order by a.entity_id, a.id desc
) told
where told.action not in ('task_completed', 'task_dead', 'task_cancelled')

-- name: audit_path_is_legal
-- The audit log leads each task from its creation only by ways that the state machine has, one lease after another.
-- %(moves)s are these ways. What is not known of a pruned task, its max_attempts, is not judged.
with entry as (
    select a.entity_id as task_id, a.id, a.action, a.detail ->> 'lease_id' as lease_id, a.detail ->> 'reason' as reason,
           case a.action
               when 'task_created' then 'queued' when 'task_requeued' then 'queued' when 'task_retried' then 'queued'
               when 'task_leased' then 'held' when 'task_cancel_requested' then 'asked'
               when 'task_completed' then a.detail ->> 'status' when 'task_dead' then 'dead'
               when 'task_cancelled' then 'cancelled' end as state,
           case a.action when 'task_created' then 0 when 'task_requeued' then 0
               when 'task_leased' then (a.detail ->> 'attempt')::integer
               else (a.detail ->> 'attempts')::integer end as attempts
    from bloom.audit_log a
    where a.action in ('task_created', 'task_leased', 'task_completed', 'task_retried', 'task_dead',
                       'task_cancel_requested', 'task_cancelled', 'task_requeued')
), path as (
    select e.*, lag(state) over told as before, lag(lease_id) over told as held_lease_id,
           coalesce(attempts, lag(attempts) over told - (reason = 'worker_removed')::integer) as attempts_now,
           case action
               when 'task_created' then 'create' when 'task_leased' then 'grant' when 'task_requeued' then 'requeue'
               when 'task_cancel_requested' then 'cancel'
               when 'task_completed' then case state when 'completed' then 'complete' else 'fail' end
               else case when reason = 'lease_expired' then 'expire'
                         when reason in ('handed_back', 'worker_removed') then 'hand_back'
                         when action <> 'task_cancelled' then 'retry'
                         when lease_id is null then 'cancel' else 'complete' end
           end as command
    from entry e window told as (partition by task_id order by id)
), step as (
    select p.*, lag(attempts_now) over (partition by task_id order by id) as attempts_before from path p
)
select distinct s.task_id
from step s left join bloom.tasks t on t.id = s.task_id
where not exists (
          select from json_to_recordset(%(moves)s) as m(before text, command text, attempts_left boolean, after text)
          where m.before = coalesce(s.before, 'nothing') and m.command = s.command and m.after = s.state
            and coalesce(m.attempts_left = (s.attempts < t.max_attempts), true))
   or (s.action = 'task_leased' and (s.lease_id is null or s.attempts is distinct from s.attempts_before + 1
                                     or s.attempts > t.max_attempts))
   or (s.before in ('held', 'asked') and s.lease_id is distinct from s.held_lease_id)

-- name: lease_is_audited
-- The audit log tells once of each lease that it was granted, and once that it has ended.
select coalesce(l.id, told.lease_id)
from bloom.leases l full join (
    select a.entity_id as task_id, a.detail ->> 'lease_id' as lease_id,
           count(*) filter (where a.action = 'task_leased') as granted,
           count(*) filter (where a.action <> 'task_leased') as ended,
           max(a.detail ->> 'worker_id') filter (where a.action = 'task_leased') as worker_id
    from bloom.audit_log a
    where a.action in ('task_leased', 'task_completed', 'task_retried', 'task_dead', 'task_cancelled')
      and a.detail ->> 'lease_id' is not null
    group by 1, 2
) told on told.lease_id = l.id and told.task_id = l.task_id
left join bloom.tasks t on t.id = told.task_id
where (l.id is not null and (told.granted is distinct from 1 or told.ended <> (l.status <> 'active')::int
                             or told.worker_id is distinct from l.worker_id))
   or (l.id is null and t.id is not null)

-- name: events_of_a_lease_have_no_gap
-- The events of a lease come without a gap.
select lease_id from bloom.task_events group by lease_id having max(seq) - min(seq) + 1 <> count(*) or min(seq) > 1

-- name: events_of_a_task_have_no_gap
-- The events of a task are counted from 1 without a gap.
select task_id from bloom.task_events group by task_id having max(id) <> count(*) or min(id) <> 1

-- name: content_is_whole
-- The content of an artifact is whole, and kept in one place.
select a.id from bloom.artifacts a left join bloom.upload_chunks c on c.upload_id = a.id
group by a.id having case a.place
    when 'inline' then octet_length(a.content) <> a.size_bytes or count(c.n) <> 0
    when 'chunks' then sum(octet_length(c.data)) is distinct from a.size_bytes or max(c.n) + 1 <> count(c.n)
    else count(c.n) <> 0 end

-- name: kept_upload_is_an_artifact
-- An upload that is kept is the content of an artifact.
select u.id from bloom.uploads u where u.kept and not exists (select from bloom.artifacts a where a.id = u.id)

-- name: concurrency_key_runs_one
-- Tasks that share a concurrency key run one at a time.
select concurrency_key from bloom.tasks where status in ('leased', 'running') and concurrency_key is not null
group by concurrency_key having count(*) > 1

-- name: concurrency_key_goes_on
-- Of the tasks that wait for a concurrency key one runs, or has its turn.
select concurrency_key from bloom.tasks
where concurrency_key is not null and status in ('queued', 'leased', 'running')
group by concurrency_key having not bool_or(turn or status <> 'queued')
