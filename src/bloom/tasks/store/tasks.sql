-- Creating tasks and reading them.

-- name: purge_expired_keys
-- Forget these idempotency keys where they are older than seven days (wire contract, section 3). Arrays, not pairs: the
-- planner knows how few they are, and takes the index.
delete from bloom.idempotency_keys
where scope = any(%(scopes)s) and key = any(%(keys)s)
  and created_at < coalesce(%(now)s::timestamptz, now()) - interval '7 days';

-- name: insert_many
-- Insert tasks with their audit entries and idempotency keys; one whose key is taken is left out. A task whose concurrency
-- key is in use gets no turn: one that has the key is locked until here is committed, so that whoever ends it sees the new
-- one. Where that one is being changed just now, the task gets its turn, and each claim looks for itself.
with input as (
    select i.*, coalesce(%(now)s::timestamptz, now()) as now
    from json_to_recordset(%(items)s) as i(
        id text, context_id text, agent_slug text, prompt text, context_hints json, timeout_sec integer,
        budget double precision, desired_format text, priority integer, run_at timestamptz, labels text[],
        concurrency_key text, retry_base_sec double precision, retry_max_sec double precision, max_attempts integer,
        request_id text, traceparent text, scope text, idempotency_key text, digest text, actor text)
), keyed as (
    insert into bloom.idempotency_keys (scope, key, task_id, digest, created_at)
    select scope, idempotency_key, id, decode(digest, 'hex'), now from input
    where idempotency_key is not null
    order by scope, idempotency_key
    on conflict (scope, key) do nothing
    returning task_id
), new as (
    select * from input where idempotency_key is null or id in (select task_id from keyed)
), ahead as materialized (
    select k.concurrency_key
    from (select distinct concurrency_key from new where concurrency_key is not null) k
    cross join lateral (
        select from bloom.tasks t
        where t.concurrency_key = k.concurrency_key and t.status in ('queued', 'leased', 'running')
        limit 1 for key share skip locked
    ) t
), inserted as (
    insert into bloom.tasks (id, context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format,
                             status, priority, run_at, due, turn, labels, concurrency_key, retry_base_sec, retry_max_sec,
                             max_attempts, request_id, traceparent, created_at, updated_at)
    select id, context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format,
           'queued', priority, run_at, coalesce(run_at <= now, true),
           concurrency_key is null or (row_number() over (partition by concurrency_key order by id) = 1
                                       and concurrency_key not in (select concurrency_key from ahead)),
           labels, concurrency_key, retry_base_sec, retry_max_sec, max_attempts, request_id,
           traceparent, now, now
    from new
    order by id
    returning id, seq, due, created_at, context_id, agent_slug
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select t.created_at, 'task_created', 'task', t.id, i.actor,
           json_build_object('context_id', t.context_id, 'agent_slug', t.agent_slug)
    from inserted t join input i using (id)
    order by t.seq
), counted as (
    insert into bloom.counts (queued) select count(*) from inserted having count(*) > 0
)
select id, seq, due, created_at from inserted;

-- name: by_idempotency_keys
-- What these keys stand for in these scopes.
select scope, key, task_id, encode(digest, 'hex') as digest
from bloom.idempotency_keys
where scope = any(%(scopes)s) and key = any(%(keys)s);

-- name: by_ids
-- Whole tasks.
select id, seq, context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format, status, priority,
       run_at, labels, concurrency_key, retry_base_sec, retry_max_sec, attempts, max_attempts, lease_id, worker_id,
       cancel_requested_at, request_id, traceparent, created_at, updated_at
from bloom.tasks
where id = any(%(ids)s);

-- name: page
-- One page of tasks, newest first, before the task `before`; prompts cut to %(cut)s characters.
select id, seq, context_id, agent_slug, left(prompt, %(cut)s) as prompt, context_hints, timeout_sec, budget,
       desired_format, status, priority, run_at, labels, concurrency_key, retry_base_sec, retry_max_sec, attempts,
       max_attempts, lease_id, worker_id, cancel_requested_at, request_id, traceparent, created_at,
       updated_at, length(prompt) > %(cut)s as truncated
from bloom.tasks
where seq < coalesce(%(before)s, 9223372036854775807)
order by seq desc
limit %(limit)s;

-- name: page_by_status
-- The same for one status. Written as a range of the index on (status, seq), the only one that has this order: with
-- `status = ...` the planner may walk along all tasks to find those of a rare status.
select id, seq, context_id, agent_slug, left(prompt, %(cut)s) as prompt, context_hints, timeout_sec, budget,
       desired_format, status, priority, run_at, labels, concurrency_key, retry_base_sec, retry_max_sec, attempts,
       max_attempts, lease_id, worker_id, cancel_requested_at, request_id, traceparent, created_at,
       updated_at, length(prompt) > %(cut)s as truncated
from bloom.tasks
where status >= %(status)s and (status, seq) < (%(status)s, coalesce(%(before)s, 9223372036854775807))
order by status desc, seq desc
limit %(limit)s;

-- name: search
-- Of the %(reach)s tasks before the task `before`, newest first, up to %(limit)s of those that are wanted (null: any). However
-- many tasks there are, no more are looked at. %(text)s is a regular expression.
select id, seq, context_id, agent_slug, left(prompt, %(cut)s) as prompt, context_hints, timeout_sec, budget,
       desired_format, status, priority, run_at, labels, concurrency_key, retry_base_sec, retry_max_sec, attempts,
       max_attempts, lease_id, worker_id, cancel_requested_at, created_at, updated_at,
       length(prompt) > %(cut)s as truncated
from (
    select * from bloom.tasks
    where seq < coalesce(%(before)s, 9223372036854775807)
    order by seq desc limit %(reach)s
) looked
where (%(agent)s::text is null or agent_slug = %(agent)s)
  and (%(context)s::text is null or context_id = %(context)s)
  and (%(worker)s::text is null or worker_id = %(worker)s)
  and (%(label)s::text is null or %(label)s = any(labels))
  and (%(text)s::text is null or left(prompt, 16384) ~ %(text)s)
order by seq desc
limit %(limit)s;

-- name: search_by_status
-- The same among those of one status.
select id, seq, context_id, agent_slug, left(prompt, %(cut)s) as prompt, context_hints, timeout_sec, budget,
       desired_format, status, priority, run_at, labels, concurrency_key, retry_base_sec, retry_max_sec, attempts,
       max_attempts, lease_id, worker_id, cancel_requested_at, created_at, updated_at,
       length(prompt) > %(cut)s as truncated
from (
    select * from bloom.tasks
    where status >= %(status)s and (status, seq) < (%(status)s, coalesce(%(before)s, 9223372036854775807))
    order by status desc, seq desc limit %(reach)s
) looked
where (%(agent)s::text is null or agent_slug = %(agent)s)
  and (%(context)s::text is null or context_id = %(context)s)
  and (%(worker)s::text is null or worker_id = %(worker)s)
  and (%(label)s::text is null or %(label)s = any(labels))
  and (%(text)s::text is null or left(prompt, 16384) ~ %(text)s)
order by seq desc
limit %(limit)s;

-- name: reached
-- The last task that `search` looks at, if it meets so many.
select seq from bloom.tasks
where seq < coalesce(%(before)s, 9223372036854775807)
order by seq desc
offset %(reach)s - 1 limit 1;

-- name: reached_by_status
-- The same for `search_by_status`.
select seq from bloom.tasks
where status >= %(status)s and (status, seq) < (%(status)s, coalesce(%(before)s, 9223372036854775807))
order by status desc, seq desc
offset %(reach)s - 1 limit 1;

-- name: exists
-- Whether there is such a task.
select 1 as found from bloom.tasks where id = %(id)s;
