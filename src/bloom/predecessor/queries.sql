-- Writes of what was taken over. Each statement belongs to a transaction that takes whole tasks.

-- name: known
-- The tasks that are here, or were and are pruned.
select entity_id as id from bloom.audit_log
where action = 'task_created' and entity_id in (select id from public.llm_tasks);

-- name: insert_workers
-- Workers that are not here yet, with their audit entries; the ids of those that were taken.
with taken as (
    insert into bloom.workers (id, node_id, url, status, claude_cli, max_concurrency, labels, ip_addrs, obs_count, db_sha,
                               agent_version, os_info, install_method, registered_at, last_heartbeat)
    select id, node_id, url, 'offline', claude_cli, max_concurrency, labels, ip_addrs, obs_count, db_sha, agent_version,
           os_info, install_method, coalesce(registered_at, now()), last_heartbeat
    from json_to_recordset(%(rows)s) as i(
        id text, node_id text, url text, claude_cli boolean, max_concurrency integer, labels text[], ip_addrs text[],
        obs_count integer, db_sha text, agent_version text, os_info text, install_method text, registered_at timestamptz,
        last_heartbeat timestamptz)
    order by id
    on conflict (id) do nothing
    returning id, max_concurrency
), audited as (
    insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
    select 'worker_registered', 'worker', id, %(actor)s,
           json_build_object('status', 'offline', 'slots', max_concurrency, 'imported', true) from taken
)
select id from taken;

-- name: known_workers
-- Which of these workers are here.
select id from bloom.workers where id = any(%(ids)s);

-- name: insert_tasks
-- Tasks, in this order, and what that adds to the counts.
with taken as (
    insert into bloom.tasks (id, context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format, status,
                             attempts, max_attempts, lease_id, worker_id, created_at, updated_at)
    select id, context_id, agent_slug, prompt, context_hints, timeout_sec, budget, desired_format, status, attempts,
           max_attempts, lease_id, worker_id, coalesce(created_at, now()), coalesce(updated_at, created_at, now())
    from json_to_recordset(%(rows)s) as i(
        n integer, id text, context_id text, agent_slug text, prompt text, context_hints json, timeout_sec integer,
        budget double precision, desired_format text, status text, attempts integer, max_attempts integer, lease_id text,
        worker_id text, created_at timestamptz, updated_at timestamptz)
    order by n
    returning status
)
insert into bloom.counts (queued, completed, failed, dead, cancelled, leases)
select count(*) filter (where status = 'queued'), count(*) filter (where status = 'completed'),
       count(*) filter (where status = 'failed'), count(*) filter (where status = 'dead'),
       count(*) filter (where status = 'cancelled'), %(leases)s
from taken;

-- name: insert_leases
-- Their leases, all of which have ended.
insert into bloom.leases (id, task_id, worker_id, context_id, status, started_at, expires_at, ttl_seconds, last_heartbeat,
                          ended_at)
select id, task_id, worker_id, context_id, status, coalesce(started_at, now()), coalesce(expires_at, started_at, now()),
       ttl_seconds, last_heartbeat, coalesce(ended_at, now())
from json_to_recordset(%(rows)s) as i(
    n integer, id text, task_id text, worker_id text, context_id text, status text, started_at timestamptz,
    expires_at timestamptz, ttl_seconds integer, last_heartbeat timestamptz, ended_at timestamptz)
order by n;

-- name: insert_artifacts
-- Their artifacts.
insert into bloom.artifacts (id, task_id, job_id, type, tags, entity_refs, content_type, size_bytes, sha256, place, content,
                             object_key, url, moves_to_store, created_at)
select id, task_id, job_id, type, tags, entity_refs, content_type, size_bytes, sha256, place, content, object_key, url,
       moves_to_store, coalesce(created_at, now())
from json_to_recordset(%(rows)s) as i(
    n integer, id text, task_id text, job_id text, type text, tags text[], entity_refs json, content_type text,
    size_bytes bigint, sha256 text, place text, content text, object_key text, url text, moves_to_store boolean,
    created_at timestamptz)
order by n;

-- name: insert_results
-- Their results.
insert into bloom.results (id, task_id, lease_id, worker_id, artifact_id, status, output, output_cut, error_message, metrics,
                           digest, completed_at)
select id, task_id, lease_id, worker_id, artifact_id, status, output, output_cut, error_message, metrics,
       sha256(convert_to(id, 'UTF8')), coalesce(completed_at, now())
from json_to_recordset(%(rows)s) as i(
    n integer, id text, task_id text, lease_id text, worker_id text, artifact_id text, status text, output text,
    output_cut boolean, error_message text, metrics json, completed_at timestamptz)
order by n;

-- name: insert_audit
-- Their history, in the words of this runtime.
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
select action, 'task', task_id, %(actor)s, detail
from json_to_recordset(%(rows)s) as i(n integer, action text, task_id text, detail json)
order by n;

-- name: insert_entries
-- Its own audit log, entry by entry, under a word of its own: what it tells is not always what was. An entry is taken once.
insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
select coalesce(to_timestamp((j ->> 'timestamp')::double precision / 1000), now()), 'predecessor_entry',
       'predecessor_' || coalesce(j ->> 'entity_type', 'entry'), coalesce(j ->> 'entity_id', ''),
       coalesce(j ->> 'actor', 'unknown'), json_build_object('id', j ->> 'id', 'action', j ->> 'action', 'detail', j -> 'detail')
from (select to_jsonb(a) as j from public.audit_logs a) entry
where not exists (
    select from bloom.audit_log here
    where here.action = 'predecessor_entry' and here.detail ->> 'id' = j ->> 'id')
order by (j ->> 'timestamp')::double precision, j ->> 'id';

-- name: count_entries
-- How many entries it has, and how many of them are here.
select (select count(*) from public.audit_logs) as count,
       (select count(*) from bloom.audit_log where action = 'predecessor_entry') as taken;
