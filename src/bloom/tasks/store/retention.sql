-- Pruning tasks that ended long ago. Locks tasks only, and waits for nobody.

-- name: lock_old
-- Lock the next tasks, behind the position (updated_at, id), that ended %(days)s days ago or earlier. Those that an
-- idempotency key stands for, which still counts, are left. `weight`: about how many rows go with each (a chunk of an output
-- is some 250 of them).
select t.id, t.updated_at,
       coalesce((select max(e.id) from bloom.task_events e where e.task_id = t.id), 0)
       + coalesce((select sum(u.chunks) from bloom.uploads u where u.task_id = t.id), 0) * 250 as weight
from bloom.tasks t
where t.status in ('completed', 'failed', 'dead', 'cancelled') and (t.updated_at, t.id) > (%(after_at)s, %(after_id)s)
  and t.updated_at <= coalesce(%(now)s::timestamptz, now()) - make_interval(days => %(days)s)
  and not exists (
      select from bloom.idempotency_keys k
      where k.task_id = t.id and k.created_at >= coalesce(%(now)s::timestamptz, now()) - interval '7 days')
order by t.updated_at, t.id
limit %(limit)s
for update of t skip locked;

-- name: prune
-- Delete locked tasks with all that belongs to them, audit entries excepted. What they have in the object store is deleted
-- after the commit, from the list that is written here.
with pruned as (
    delete from bloom.tasks where id = any(%(ids)s) returning id, status
), listed as (
    insert into bloom.pruned_objects (object_key, pruned_at)
    select object_key, coalesce(%(now)s::timestamptz, now()) from bloom.artifacts
    where task_id = any(%(ids)s) and object_key is not null
    on conflict (object_key) do nothing
), counted as (
    insert into bloom.counts (completed, failed, dead, cancelled, leases)
    select -count(*) filter (where status = 'completed'), -count(*) filter (where status = 'failed'),
           -count(*) filter (where status = 'dead'), -count(*) filter (where status = 'cancelled'),
           -(select count(*) from bloom.leases where task_id = any(%(ids)s))
    from pruned having count(*) > 0
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select coalesce(%(now)s::timestamptz, now()), 'tasks_pruned', 'retention', 'tasks', %(actor)s,
           json_build_object('older_than_days', %(days)s::integer, 'count', count(*), 'task_ids', json_agg(id order by id))
    from pruned having count(*) > 0
)
select status, count(*) as n from pruned group by status;

-- name: would_prune
-- What would be pruned, by state: tasks, artifacts, and the bytes of prompts, events and outputs here and in the object store.
with old as materialized (
    select t.id, t.status, octet_length(t.prompt) as bytes
    from bloom.tasks t
    where t.status in ('completed', 'failed', 'dead', 'cancelled')
      and t.updated_at <= coalesce(%(now)s::timestamptz, now()) - make_interval(days => %(days)s)
      and not exists (
          select from bloom.idempotency_keys k
          where k.task_id = t.id and k.created_at >= coalesce(%(now)s::timestamptz, now()) - interval '7 days')
)
select status, sum(tasks)::bigint as tasks, sum(artifacts)::bigint as artifacts, sum(bytes)::bigint as database_bytes,
       sum(store_bytes)::bigint as store_bytes
from (
    select status, 1 as tasks, 0 as artifacts, bytes, 0 as store_bytes from old
    union all
    select o.status, 0, 1, case when a.place <> 'store' then a.size_bytes else 0 end,
           case when a.place = 'store' then a.size_bytes else 0 end
    from old o join bloom.artifacts a on a.task_id = o.id
    union all
    select o.status, 0, 0, coalesce(octet_length(r.output), 0), 0 from old o join bloom.results r on r.task_id = o.id
    union all
    select o.status, 0, 0, coalesce(octet_length(r.output), 0), 0
    from old o join bloom.rejected_results r on r.task_id = o.id
    union all
    select o.status, 0, 0, octet_length(e.data::text), 0 from old o join bloom.task_events e on e.task_id = o.id
) as part
group by status;
