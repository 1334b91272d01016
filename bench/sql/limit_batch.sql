-- The whole life of 100 tasks, as four transactions of one statement each, all rows and indexes as the product writes them.
\set n :n + 1
\set id 100000000000 + :n * 1000 + :client_id
-- create
with created as (
    insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status)
    select '018f0000-0000-7000-800' || :id || lpad(i::text, 2, '0'), :id || '-' || i, 'bench', :prompt, 120, 0, 'text',
           'queued'
    from generate_series(0, 99) i
    returning id, context_id, agent_slug
)
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
select 'task_created', 'task', id, 'admin', json_build_object('context_id', context_id, 'agent_slug', agent_slug)
from created;
-- claim: the next of the queue, whoever created them
with candidates as (
    select id, '018f0000-0000-7000-801' || right(id, 14) as new_lease_id
    from bloom.tasks
    where status = 'queued' and due and turn and labels collate "C" = '{}'::text[]
    order by priority desc, seq
    limit 100
    for update skip locked
), granted as (
    update bloom.tasks t
    set status = 'leased', lease_id = c.new_lease_id, worker_id = 'bench-' || :client_id, attempts = t.attempts + 1,
        updated_at = now()
    from candidates c
    where t.id = c.id
    returning t.id, t.context_id, t.lease_id, t.worker_id, t.attempts
), leased as (
    insert into bloom.leases (id, task_id, worker_id, context_id, status, request_id, expires_at, ttl_seconds)
    select lease_id, id, worker_id, context_id, 'active', '018f0000-0000-7000-804' || :id || '00',
           now() + interval '300 seconds', 300
    from granted
)
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
select 'task_leased', 'task', id, 'worker:' || worker_id,
       json_build_object('lease_id', lease_id, 'worker_id', worker_id, 'attempt', attempts)
from granted;
-- extend
with extended as (
    update bloom.leases set expires_at = now() + make_interval(secs => ttl_seconds), last_heartbeat = now()
    where worker_id = 'bench-' || :client_id and status = 'active' and expires_at > now()
    returning id, task_id
)
update bloom.tasks t set status = 'running', updated_at = now()
from extended e where t.id = e.task_id and t.lease_id = e.id and t.status = 'leased';
-- complete
with ended as (
    update bloom.leases set status = 'released', ended_at = now()
    where worker_id = 'bench-' || :client_id and status = 'active'
    returning id, task_id
), moved as (
    update bloom.tasks t set status = 'completed', updated_at = now()
    from ended e
    where t.id = e.task_id and t.lease_id = e.id and t.status in ('leased', 'running')
    returning t.id, t.lease_id, t.worker_id, t.attempts
), stored as (
    insert into bloom.artifacts (id, task_id, job_id, type, content_type, size_bytes, sha256, place, content)
    select '018f0000-0000-7000-802' || right(id, 14), id, id, 'LLM_RESULT', 'text/plain; charset=utf-8', 2048, :sha256,
           'inline', :output
    from moved
    returning id, task_id
), reported as (
    insert into bloom.results (id, task_id, lease_id, worker_id, artifact_id, status, metrics, digest)
    select '018f0000-0000-7000-803' || right(m.id, 14), m.id, m.lease_id, m.worker_id, s.id, 'success',
           '{"duration_ms":1000}', decode(:sha256, 'hex')
    from moved m join stored s on s.task_id = m.id
)
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
select 'task_completed', 'task', id, 'worker:' || worker_id,
       json_build_object('lease_id', lease_id, 'status', 'completed', 'artifact_id',
                         '018f0000-0000-7000-802' || right(id, 14), 'attempts', attempts)
from moved;
