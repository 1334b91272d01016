-- The whole life of one task, as four transactions of one statement each, all rows and indexes as the product writes them.
\set n :n + 1
\set id 10000000000000 + :n * 1000 + :client_id
-- create
with created as (
    insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status)
    values ('018f0000-0000-7000-800' || :id, 'bench-' || :client_id, 'bench', :prompt, 120, 0, 'text', 'queued')
    returning id, context_id, agent_slug
)
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
select 'task_created', 'task', id, 'admin', json_build_object('context_id', context_id, 'agent_slug', agent_slug)
from created;
-- lease
with granted as (
    update bloom.tasks
    set status = 'leased', lease_id = '018f0000-0000-7000-801' || :id, worker_id = 'bench-' || :client_id,
        attempts = attempts + 1, updated_at = now()
    where id = '018f0000-0000-7000-800' || :id and status = 'queued' and due
    returning id, context_id, lease_id, worker_id, attempts
), leased as (
    insert into bloom.leases (id, task_id, worker_id, context_id, status, expires_at, ttl_seconds)
    select lease_id, id, worker_id, context_id, 'active', now() + interval '300 seconds', 300 from granted
)
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
select 'task_leased', 'task', id, 'admin',
       json_build_object('lease_id', lease_id, 'worker_id', worker_id, 'attempt', attempts)
from granted;
-- heartbeat
with extended as (
    update bloom.leases set expires_at = now() + make_interval(secs => ttl_seconds), last_heartbeat = now()
    where id = '018f0000-0000-7000-801' || :id and status = 'active' and expires_at > now()
    returning id, task_id
)
update bloom.tasks t set status = 'running', updated_at = now()
from extended e where t.id = e.task_id and t.lease_id = e.id and t.status = 'leased';
-- complete
with moved as (
    update bloom.tasks set status = 'completed', updated_at = now()
    where id = '018f0000-0000-7000-800' || :id and lease_id = '018f0000-0000-7000-801' || :id
      and status in ('leased', 'running')
    returning id, lease_id, worker_id, attempts
), ended as (
    update bloom.leases l set status = 'released', ended_at = now()
    from moved m where l.id = m.lease_id and l.status = 'active'
), stored as (
    insert into bloom.artifacts (id, task_id, job_id, type, content_type, size_bytes, sha256, place, content)
    select '018f0000-0000-7000-802' || :id, id, id, 'LLM_RESULT', 'text/plain; charset=utf-8', 2048, :sha256, 'inline',
           :output
    from moved
    returning id, task_id
), reported as (
    insert into bloom.results (id, task_id, lease_id, worker_id, artifact_id, status, metrics, digest)
    select '018f0000-0000-7000-803' || :id, m.id, m.lease_id, m.worker_id, s.id, 'success', '{"duration_ms":1000}',
           decode(:sha256, 'hex')
    from moved m join stored s on s.task_id = m.id
)
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
select 'task_completed', 'task', id, 'worker:' || worker_id,
       json_build_object('lease_id', lease_id, 'status', 'completed', 'artifact_id', '018f0000-0000-7000-802' || :id,
                         'attempts', attempts)
from moved;
