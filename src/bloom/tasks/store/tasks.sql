-- Creating tasks and reading them.

-- name: purge_expired_keys
-- Forget these idempotency keys where they are older than seven days (wire contract, section 3).
delete from bloom.idempotency_keys k
using json_to_recordset(%(items)s) as i(scope text, idempotency_key text)
where k.scope = i.scope and k.key = i.idempotency_key
  and k.created_at < coalesce(%(now)s::timestamptz, now()) - interval '7 days';

-- name: insert_many
-- Insert tasks with their audit entries and idempotency keys; one whose key is taken is left out.
with input as (
    select i.*, coalesce(%(now)s::timestamptz, now()) as now
    from json_to_recordset(%(items)s) as i(
        id text, context_id text, agent_slug text, prompt text, context_hints json, timeout_sec integer,
        budget double precision, desired_format text, priority integer, run_at timestamptz, labels text[],
        concurrency_key text, retry_base_sec double precision, retry_max_sec double precision, max_attempts integer,
        scope text, idempotency_key text, digest text, actor text)
), keyed as (
    insert into bloom.idempotency_keys (scope, key, task_id, digest, created_at)
    select scope, idempotency_key, id, decode(digest, 'hex'), now from input
    where idempotency_key is not null
    order by scope, idempotency_key
    on conflict (scope, key) do nothing
    returning task_id
), inserted as (
    insert into bloom.tasks (id, context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format,
                             status, priority, run_at, due, labels, concurrency_key, retry_base_sec, retry_max_sec,
                             max_attempts, created_at, updated_at)
    select id, context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format,
           'queued', priority, run_at, coalesce(run_at <= now, true), labels, concurrency_key, retry_base_sec,
           retry_max_sec, max_attempts, now, now
    from input
    where idempotency_key is null or id in (select task_id from keyed)
    order by id
    returning id, seq, due, created_at, context_id, agent_slug
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select t.created_at, 'task_created', 'task', t.id, i.actor,
           json_build_object('context_id', t.context_id, 'agent_slug', t.agent_slug)
    from inserted t join input i using (id)
    order by t.seq
)
select id, seq, due, created_at from inserted;

-- name: by_idempotency_keys
-- What these keys stand for.
select k.scope, k.key, k.task_id, encode(k.digest, 'hex') as digest
from bloom.idempotency_keys k
join json_to_recordset(%(items)s) as i(scope text, idempotency_key text)
  on k.scope = i.scope and k.key = i.idempotency_key;

-- name: by_ids
-- Whole tasks.
select id, seq, context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format, status, priority,
       run_at, labels, concurrency_key, retry_base_sec, retry_max_sec, attempts, max_attempts, lease_id, worker_id,
       cancel_requested_at, created_at, updated_at
from bloom.tasks
where id = any(%(ids)s);

-- name: page
-- One page of tasks, newest first, before the task `before`; prompts cut to %(cut)s characters.
select id, seq, context_id, agent_slug, left(prompt, %(cut)s) as prompt, context_hints, timeout_sec, budget,
       desired_format, status, priority, run_at, labels, concurrency_key, retry_base_sec, retry_max_sec, attempts,
       max_attempts, lease_id, worker_id, cancel_requested_at, created_at, updated_at,
       length(prompt) > %(cut)s as truncated
from bloom.tasks
where seq < coalesce(%(before)s, 9223372036854775807)
order by seq desc
limit %(limit)s;

-- name: page_by_status
-- The same for one status.
select id, seq, context_id, agent_slug, left(prompt, %(cut)s) as prompt, context_hints, timeout_sec, budget,
       desired_format, status, priority, run_at, labels, concurrency_key, retry_base_sec, retry_max_sec, attempts,
       max_attempts, lease_id, worker_id, cancel_requested_at, created_at, updated_at,
       length(prompt) > %(cut)s as truncated
from bloom.tasks
where status = %(status)s and seq < coalesce(%(before)s, 9223372036854775807)
order by seq desc
limit %(limit)s;

-- name: count_by_status
-- How many tasks there are in each state.
select status, count(*) as n from bloom.tasks group by status;

-- name: exists
-- Whether there is such a task.
select 1 as found from bloom.tasks where id = %(id)s;
