-- Tables as a busy installation has them after a month. Constraints between tables hold by construction and are not checked.

-- name: settings
-- For the session that fills.
set session_replication_role = replica; set synchronous_commit = off; set maintenance_work_mem = '256MB';

-- name: workers
-- Those that did the work; they are away now.
insert into bloom.workers (id, status, claims, max_concurrency, last_heartbeat)
select 'worker-' || i, 'offline', true, 4, now() - interval '1 hour' from generate_series(0, 39) i;

-- name: finished
-- Of 100 tasks 94 completed, 4 failed, 1 died and 1 was cancelled, over the last 30 days, in 20,000 contexts.
insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status, attempts,
                         lease_id, worker_id, created_at, updated_at)
select '018f0000-0000-7000-900' || to_char(i, 'FM00000000000000'), 'context-' || i %% 20000, 'agent-' || i %% 7,
       substr(%(words)s::text, (1 + i %% 3000)::integer, 1024), 120, 0, 'text', s.status, 1,
       case when s.status <> 'cancelled' then '018f0000-0000-7000-901' || to_char(i, 'FM00000000000000') end,
       case when s.status <> 'cancelled' then 'worker-' || i %% 40 end, s.at, s.at + interval '2 minutes'
from generate_series(%(first)s::bigint, %(last)s::bigint) i
cross join lateral (
    select case when i %% 100 < 94 then 'completed' when i %% 100 < 98 then 'failed' when i %% 100 < 99 then 'dead'
                else 'cancelled' end as status,
           now() - interval '30 days' * (1 - i / %(finished)s::float8) - interval '1 hour' as at
) s;

-- name: leases
-- One of each task that was worked on.
insert into bloom.leases (id, task_id, worker_id, context_id, status, request_id, started_at, expires_at, ttl_seconds,
                          last_heartbeat, ended_at)
select lease_id, id, worker_id, context_id,
       case status when 'completed' then 'released' when 'dead' then 'expired' else 'failed' end,
       '018f0000-0000-7000-904' || right(id, 14), created_at + interval '1 minute', updated_at + interval '1 minute', 60,
       updated_at, updated_at
from bloom.tasks where lease_id is not null order by seq;

-- name: artifacts
-- The outputs of those that completed.
insert into bloom.artifacts (id, task_id, job_id, type, content_type, size_bytes, sha256, place, content, created_at)
select '018f0000-0000-7000-902' || right(id, 14), id, id, 'LLM_RESULT', 'text/plain; charset=utf-8', 2048,
       encode(sha256(id::bytea), 'hex'), 'inline', substr(%(words)s::text, 1 + (seq %% 3000)::integer, 2048), updated_at
from bloom.tasks where status = 'completed' order by seq;

-- name: results
-- What was reported of all but those that died.
insert into bloom.results (id, task_id, lease_id, worker_id, artifact_id, status, error_message, code, metrics, digest,
                           completed_at)
select '018f0000-0000-7000-903' || right(id, 14), id, lease_id, worker_id,
       case status when 'completed' then '018f0000-0000-7000-902' || right(id, 14) end,
       case status when 'completed' then 'success' else 'error' end,
       case status when 'failed' then 'The program ended with exit code 1.' end,
       case status when 'failed' then 'exit_code' end, '{"duration_ms":60000,"tokens_used":512}',
       sha256(id::bytea), updated_at
from bloom.tasks where status in ('completed', 'failed') order by seq;

-- name: events
-- Two of each run.
insert into bloom.task_events (task_id, id, lease_id, seq, at, type, data)
select t.id, n, t.lease_id, n, t.updated_at, 'text', json_build_object('text', substr(%(words)s::text, 1, 160))
from bloom.tasks t cross join generate_series(1, 2) n where t.lease_id is not null;

-- name: queued
-- What waits, newest last.
insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status, created_at,
                         updated_at)
select '018f0000-0000-7000-910' || to_char(i, 'FM00000000000000'), 'context-' || i %% 20000, 'agent-' || i %% 7,
       substr(%(words)s::text, (1 + i %% 3000)::integer, 1024), 120, 0, 'text', 'queued', now() - interval '1 hour', now() - interval '1 hour'
from generate_series(1, %(queued)s::bigint) i;

-- name: audit
-- Every step of every task.
insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
select t.created_at, a.action, 'task', t.id, a.actor, a.detail
from bloom.tasks t
cross join lateral (values
    (0, 'task_created', 'admin', json_build_object('context_id', t.context_id, 'agent_slug', t.agent_slug)),
    (1, 'task_leased', 'worker:' || t.worker_id,
     json_build_object('lease_id', t.lease_id, 'worker_id', t.worker_id, 'attempt', 1)),
    (2, case t.status when 'cancelled' then 'task_cancelled' when 'dead' then 'task_dead' else 'task_completed' end,
     coalesce('worker:' || t.worker_id, 'admin'), json_build_object('lease_id', t.lease_id, 'status', t.status, 'attempts', 1))
) as a(step, action, actor, detail)
where a.step = 0 or (t.status <> 'queued' and (a.step = 2 or t.lease_id is not null))
order by t.seq, a.step;

-- name: count
-- What GET /stats counts with.
truncate bloom.counts;

-- name: counted
-- The same.
insert into bloom.counts (queued, completed, failed, dead, cancelled, leases)
select count(*) filter (where status = 'queued'), count(*) filter (where status = 'completed'),
       count(*) filter (where status = 'failed'), count(*) filter (where status = 'dead'),
       count(*) filter (where status = 'cancelled'), count(lease_id)
from bloom.tasks;

-- name: vacuum
-- As autovacuum would have done by now.
vacuum (analyze);
