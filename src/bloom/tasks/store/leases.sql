-- Granting, prolonging and ending leases. Locks: workers, then tasks, then leases, each in id order. A task's row lock
-- guards its leases too, so a lease is only ever changed by who holds the lock of its task.
-- Where rows are named by id, their state is asked for in CASE. In plain words the planner would look for them in an index of
-- states while its statistics know of no such rows, once for each of the ids, and so walk over all that is held.

-- name: promote_due
-- Tasks whose run_at has come can be claimed from now on.
update bloom.tasks set due = true
where id in (
    select id from bloom.tasks
    where status = 'queued' and not due and run_at <= coalesce(%(now)s::timestamptz, now())
    order by id limit 1000 for update skip locked
);

-- name: next_due
-- When the next task becomes due, in seconds from now.
select extract(epoch from min(run_at) - coalesce(%(now)s::timestamptz, now()))::float8 as wait_sec
from bloom.tasks where status = 'queued' and not due;

-- name: lock_candidates
-- Lock the first claimable tasks for each group of workers with the same labels, in the order of the queue. More than asked
-- for may be locked: as many of each set of labels that the group can serve, since only who reads the answer knows which of
-- them come first. A task is passed over while another task of its concurrency key goes before it, and for a second while
-- the worker that last ran its context waits elsewhere.
-- The cost does not depend on what waits for labels that nobody carries: the walk goes from one set of labels in the index
-- to the next, and from a set that the group cannot serve straight to the next one that it could.
with recursive groups as materialized (
    select g.n, g.labels as carried, g.slots
    from json_to_recordset(%(groups)s) as g(n integer, labels text[], slots integer)
), walk as (
    select g.n, g.carried, g.slots, first.labels
    from groups g cross join lateral (
        select t.labels from bloom.tasks t where t.status = 'queued' and t.due and t.turn
        order by t.labels collate "C" limit 1
    ) first
    union all
    select w.n, w.carried, w.slots, found.labels
    from walk w
    cross join lateral (
        select min(x.place) as place
        from unnest(w.labels) with ordinality as x(label, place) where x.label <> all(w.carried)
    ) missing
    cross join lateral (
        select case when missing.place is null then w.labels || ''::text else (
            select w.labels[:p.place - 1] || p.label
            from (
                select j.place, (select min(c.label collate "C") from unnest(w.carried) as c(label)
                                 where c.label collate "C" > w.labels[j.place]) as label
                from generate_series(1, missing.place::integer) as j(place)
            ) p
            where p.label is not null
            order by p.place desc limit 1
        ) end as labels
    ) next
    cross join lateral (
        select t.labels from bloom.tasks t
        where t.status = 'queued' and t.due and t.turn and t.labels collate "C" >= next.labels
        order by t.labels collate "C" limit 1
    ) found
)
select w.n as group_n, c.id, c.seq, c.priority, c.labels, c.concurrency_key, c.last_worker_id
from walk w
cross join lateral (
    select t.id, t.seq, t.priority, t.labels, t.concurrency_key,
           (select l.worker_id from bloom.leases l where l.context_id = t.context_id order by l.seq desc limit 1)
               as last_worker_id
    from bloom.tasks t
    where t.status = 'queued' and t.due and t.turn and t.labels collate "C" = w.labels and t.id <> all(%(seen)s)
      and (t.concurrency_key is null or not exists (
          select from bloom.tasks o
          where o.concurrency_key = t.concurrency_key and o.status in ('queued', 'leased', 'running')
            and (o.status <> 'queued' or (o.turn and o.seq < t.seq))))
      and (greatest(t.updated_at, t.run_at) <= coalesce(%(now)s::timestamptz, now()) - interval '1 second'
           or not exists (
               select from bloom.workers k
               where k.id = (select l.worker_id from bloom.leases l where l.context_id = t.context_id
                             order by l.seq desc limit 1)
                 and k.id <> all(%(workers)s) and k.status = 'online' and not k.draining and t.labels <@ k.labels
                 and k.polling_until > coalesce(%(now)s::timestamptz, now())))
    order by t.priority desc, t.seq
    limit w.slots
    for update of t skip locked
) c
where w.labels <@ w.carried
order by w.n, c.priority desc, c.seq;

-- name: wanted
-- What the tasks at the head of the queue ask for: up to 100 of each of the first 50 sets of labels, with the worker that last
-- ran their context. It walks the index as lock_candidates does, and locks nothing.
with recursive sets as (
    (select t.labels, 1 as n from bloom.tasks t where t.status = 'queued' and t.due and t.turn
     order by t.labels collate "C" limit 1)
    union all
    select next.labels, s.n + 1
    from sets s cross join lateral (
        select t.labels from bloom.tasks t
        where t.status = 'queued' and t.due and t.turn and t.labels collate "C" > s.labels
        order by t.labels collate "C" limit 1
    ) next
    where s.n < 50
)
select c.labels, (select l.worker_id from bloom.leases l where l.context_id = c.context_id order by l.seq desc limit 1)
                     as last_worker_id
from sets s
cross join lateral (
    select t.labels, t.context_id from bloom.tasks t
    where t.status = 'queued' and t.due and t.turn and t.labels collate "C" = s.labels
    order by t.priority desc, t.seq
    limit 100
) c;

-- name: any_fresh_claimable
-- Whether a task became claimable within the last second: it may be waiting for the worker of its context.
select exists (
    select from bloom.tasks
    where status = 'queued' and due
      and greatest(updated_at, run_at) > coalesce(%(now)s::timestamptz, now()) - interval '1 second'
) as found;

-- name: lock_tasks
-- Lock these tasks, in id order; a statement after it sees what earlier holders of the locks have done.
select id from bloom.tasks where id = any(%(ids)s) order by id for update;

-- name: lock_tasks_of_leases
-- Lock the tasks of these leases, in id order.
select id from bloom.tasks
where id in (select task_id from bloom.leases where id = any(%(lease_ids)s))
order by id for update;

-- name: leasable
-- What decides whether each task can be leased now, and which worker last ran its context.
select t.id, t.status, t.due, t.labels, t.concurrency_key, recent.worker_id as last_worker_id,
       t.concurrency_key is not null and exists (
           select from bloom.tasks o
           where o.concurrency_key = t.concurrency_key and o.status in ('queued', 'leased', 'running')
             and (o.status <> 'queued' or (not o.turn, o.seq) < (not t.turn, t.seq))) as busy
from bloom.tasks t
left join lateral (
    select l.worker_id from bloom.leases l where l.context_id = t.context_id order by l.seq desc limit 1
) recent on true
where t.id = any(%(ids)s);

-- name: grant_many
-- Lease tasks to workers: the lease, the task's new state and the audit entry. `since`: when it could first be claimed.
with input as (
    select i.*, coalesce(%(now)s::timestamptz, now()) as now
    from json_to_recordset(%(items)s) as i(
        task_id text, lease_id text, worker_id text, ttl_seconds integer, request_id text, actor text, key text)
), granted as (
    update bloom.tasks t
    set status = 'leased', lease_id = i.lease_id, worker_id = i.worker_id, attempts = t.attempts + 1, updated_at = i.now,
        turn = true
    from input i join bloom.tasks old on old.id = i.task_id
    where t.id = i.task_id and case t.status when 'queued' then t.due end
    returning t.*, greatest(old.updated_at, old.run_at) as since
), leased as (
    insert into bloom.leases (id, task_id, worker_id, context_id, status, request_id, started_at, expires_at, ttl_seconds)
    select i.lease_id, g.id, i.worker_id, g.context_id, 'active', i.request_id, i.now,
           i.now + make_interval(secs => i.ttl_seconds), i.ttl_seconds
    from granted g join input i on i.task_id = g.id
    order by g.priority desc, g.seq
    returning id, seq as lease_seq, expires_at, started_at, ttl_seconds
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select i.now, 'task_leased', 'task', g.id, i.actor,
           json_strip_nulls(json_build_object('lease_id', g.lease_id, 'worker_id', g.worker_id, 'attempt', g.attempts,
                                              'key', i.key))
    from granted g join input i on i.task_id = g.id
), counted as (
    insert into bloom.counts (queued, leased, leases) select -count(*), count(*), count(*) from granted having count(*) > 0
)
select g.id, g.seq, g.context_id, g.agent_slug, g.prompt, g.context_hints, g.timeout_sec, g.budget, g.desired_format,
       g.status, g.priority, g.run_at, g.labels, g.concurrency_key, g.retry_base_sec, g.retry_max_sec, g.attempts,
       g.max_attempts, g.lease_id, g.worker_id, g.cancel_requested_at, g.request_id, g.traceparent,
       g.created_at, g.updated_at, g.since, l.lease_seq, l.started_at, l.expires_at, l.ttl_seconds
from granted g join leased l on l.id = g.lease_id;

-- name: task_states
-- The tasks with their current leases.
select t.id as task_id, t.status as task_status, t.lease_id as current_lease_id, t.worker_id,
       t.cancel_requested_at is not null as cancel_asked
from bloom.tasks t
where t.id = any(%(ids)s);

-- name: lock_states
-- The same of tasks that this locks, in id order. FOR UPDATE gives the rows as earlier holders of the locks have left them.
select t.id as task_id, t.status as task_status, t.lease_id as current_lease_id, t.worker_id,
       t.cancel_requested_at is not null as cancel_asked
from bloom.tasks t
where t.id = any(%(ids)s)
order by t.id for update;

-- name: extend_many
-- Prolong leases that are current, active and not past their end; a leased task becomes running.
with input as (
    select i.*, coalesce(%(now)s::timestamptz, now()) as now
    from json_to_recordset(%(items)s) as i(lease_id text, worker_id text)
), extended as (
    update bloom.leases l
    set expires_at = i.now + make_interval(secs => l.ttl_seconds), last_heartbeat = i.now
    from input i, bloom.tasks t
    where l.id = i.lease_id and (i.worker_id is null or l.worker_id = i.worker_id)
      and case l.status when 'active' then l.expires_at > i.now end
      and t.id = l.task_id and t.lease_id = l.id and case when t.status in ('leased', 'running') then true end
    returning l.id, l.seq, l.task_id, l.worker_id, l.context_id, l.status, l.started_at, l.expires_at, l.ttl_seconds,
              l.last_heartbeat, t.cancel_requested_at is not null as cancel_asked, t.status as task_status
), started as (
    update bloom.tasks t set status = 'running', updated_at = coalesce(%(now)s::timestamptz, now())
    from extended e
    where t.id = e.task_id and t.lease_id = e.id and e.task_status = 'leased' and not e.cancel_asked
    returning t.id
), counted as (
    insert into bloom.counts (leased, running) select -count(*), count(*) from started having count(*) > 0
)
select * from extended;

-- name: lock_expired
-- Lock the tasks whose leases were not renewed in time.
select t.id
from bloom.leases l join bloom.tasks t on t.id = l.task_id and t.lease_id = l.id
where l.status = 'active' and l.expires_at <= coalesce(%(now)s::timestamptz, now())
  and case when t.status in ('leased', 'running') then true end
order by t.id
limit %(limit)s
for update of t skip locked;

-- name: expire_many
-- Reap the expired leases of locked tasks: back to the queue, dead at the last attempt, cancelled if that was asked for.
with expired as (
    update bloom.leases l set status = 'expired', ended_at = coalesce(%(now)s::timestamptz, now())
    from bloom.tasks t
    where t.id = any(%(ids)s) and case when t.status in ('leased', 'running') then true end and l.id = t.lease_id
      and case l.status when 'active' then l.expires_at <= coalesce(%(now)s::timestamptz, now()) end
    returning l.id as lease_id, l.task_id, l.worker_id, l.started_at, l.expires_at, t.status as was,
              case when t.cancel_requested_at is not null then 'cancelled'
                   when t.attempts < t.max_attempts then 'queued' else 'dead' end as next_status
), moved as (
    update bloom.tasks t
    set status = e.next_status, updated_at = coalesce(%(now)s::timestamptz, now()), run_at = null, due = true,
        lease_id = case when e.next_status = 'queued' then null else t.lease_id end,
        worker_id = case when e.next_status = 'queued' then null else t.worker_id end
    from expired e
    where t.id = e.task_id and t.lease_id = e.lease_id
    returning t.id, t.attempts
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select coalesce(%(now)s::timestamptz, now()), a.action, a.entity_type, a.entity_id, %(actor)s, a.detail
    from expired e join moved m on m.id = e.task_id
    cross join lateral (values
        ('lease_expired', 'lease', e.lease_id, json_build_object('task_id', e.task_id, 'worker_id', e.worker_id)),
        (case e.next_status when 'queued' then 'task_retried' when 'dead' then 'task_dead' else 'task_cancelled' end,
         'task', e.task_id,
         json_build_object('reason', 'lease_expired', 'lease_id', e.lease_id, 'attempts', m.attempts))
    ) as a(action, entity_type, entity_id, detail)
), counted as (
    insert into bloom.counts (leased, running, queued, dead, cancelled)
    select -count(*) filter (where was = 'leased'), -count(*) filter (where was = 'running'),
           count(*) filter (where next_status = 'queued'), count(*) filter (where next_status = 'dead'),
           count(*) filter (where next_status = 'cancelled')
    from expired having count(*) > 0
)
select task_id, worker_id, started_at, expires_at, next_status from expired;

-- name: lock_tasks_of_worker
-- Lock the tasks that a (locked) worker holds.
select id from bloom.tasks
where id in (select task_id from bloom.leases where worker_id = %(worker_id)s and status = 'active')
order by id for update;

-- name: remove_worker
-- Delete a locked worker: its active leases end, their tasks go back to the queue and lose no attempt.
with ended as (
    update bloom.leases l set status = 'released', ended_at = coalesce(%(now)s::timestamptz, now())
    from bloom.tasks t
    where l.worker_id = %(worker_id)s and l.status = 'active' and t.id = l.task_id and t.lease_id = l.id
    returning l.id as lease_id, l.task_id, t.status as was,
              case when t.cancel_requested_at is not null then 'cancelled' else 'queued' end as next_status
), moved as (
    update bloom.tasks t
    set status = e.next_status, updated_at = coalesce(%(now)s::timestamptz, now()), run_at = null, due = true,
        attempts = t.attempts - 1,
        lease_id = case when e.next_status = 'queued' then null else t.lease_id end,
        worker_id = case when e.next_status = 'queued' then null else t.worker_id end
    from ended e where t.id = e.task_id and t.lease_id = e.lease_id
), removed as (
    delete from bloom.workers where id = %(worker_id)s returning id
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select coalesce(%(now)s::timestamptz, now()), a.action, a.entity_type, a.entity_id, %(actor)s, a.detail
    from (
        select 'worker_removed', 'worker', id,
               json_build_object('leases_ended', (select count(*) from ended)) from removed
        union all
        select case next_status when 'queued' then 'task_retried' else 'task_cancelled' end, 'task', task_id,
               json_build_object('reason', 'worker_removed', 'lease_id', lease_id) from ended
    ) as a(action, entity_type, entity_id, detail)
), counted as (
    insert into bloom.counts (leased, running, queued, cancelled)
    select -count(*) filter (where was = 'leased'), -count(*) filter (where was = 'running'),
           count(*) filter (where next_status = 'queued'), count(*) filter (where next_status = 'cancelled')
    from ended having count(*) > 0
)
select task_id from ended;

-- name: pass_turns
-- These (locked) tasks have ended: the first task that waits for the concurrency key of each gets its turn.
with heads as (
    select h.id
    from (
        select distinct t.concurrency_key as key from bloom.tasks t
        where t.id = any(%(ids)s) and t.concurrency_key is not null order by 1
    ) k
    cross join lateral (
        select o.id from bloom.tasks o where o.concurrency_key = k.key and o.status = 'queued'
        order by o.seq limit 1 for no key update
    ) h
)
update bloom.tasks t set turn = true from heads where t.id = heads.id and not t.turn;

-- name: pass_lost_turns
-- The same for concurrency keys whose last task was ended by a release that passes no turns, while both served.
with recursive waiting as (
    select min(concurrency_key) as key from bloom.tasks where status = 'queued' and not turn
    union all
    select (select min(t.concurrency_key) from bloom.tasks t
            where t.status = 'queued' and not t.turn and t.concurrency_key > w.key)
    from waiting w where w.key is not null
), heads as (
    select h.id
    from waiting w
    cross join lateral (
        select o.id from bloom.tasks o where o.concurrency_key = w.key and o.status = 'queued'
        order by o.seq limit 1 for no key update skip locked
    ) h
    where not exists (
        select from bloom.tasks o
        where o.concurrency_key = w.key and o.status in ('queued', 'leased', 'running') and (o.status <> 'queued' or o.turn))
)
update bloom.tasks t set turn = true from heads where t.id = heads.id;

-- name: leases_page
-- One page of leases, newest first.
select id, seq, task_id, worker_id, context_id, status, started_at, expires_at, ttl_seconds, last_heartbeat
from bloom.leases
where seq < coalesce(%(before)s, 9223372036854775807)
order by seq desc
limit %(limit)s;

-- name: leases_page_by_status
-- The same for one status: a range of the index on (status, seq), as for tasks.
select id, seq, task_id, worker_id, context_id, status, started_at, expires_at, ttl_seconds, last_heartbeat
from bloom.leases
where status >= %(status)s and (status, seq) < (%(status)s, coalesce(%(before)s, 9223372036854775807))
order by status desc, seq desc
limit %(limit)s;

-- name: leases_of_worker
-- The active leases of one worker, oldest first.
select id, seq, task_id, worker_id, context_id, status, started_at, expires_at, ttl_seconds, last_heartbeat
from bloom.leases
where worker_id = %(worker_id)s and status = 'active'
order by seq;

-- name: held_by_worker
-- The same with what they are for; prompts cut to %(cut)s characters.
select l.id, l.seq, l.task_id, l.worker_id, l.context_id, l.status, l.started_at, l.expires_at, l.ttl_seconds, l.last_heartbeat,
       t.agent_slug, left(t.prompt, %(cut)s) as prompt, t.status as task_status, t.cancel_requested_at is not null as cancel_asked
from bloom.leases l join bloom.tasks t on t.id = l.task_id
where l.worker_id = %(worker_id)s and l.status = 'active'
order by l.seq;

-- name: attempts
-- The leases of one task, oldest first.
select id as lease_id, worker_id, status, started_at, expires_at, ended_at
from bloom.leases
where task_id = %(task_id)s
order by seq;

-- name: has_held
-- Whether a worker holds or held a lease of a task.
select exists (
    select from bloom.leases where task_id = %(task_id)s and worker_id = %(worker_id)s
) as found;

-- name: leases_of_request
-- What claims of these workers with these request ids were answered, in whatever state it is now. Arrays, not pairs: the
-- planner knows how few they are, and takes the index.
select id, seq, task_id, worker_id, context_id, status, started_at, expires_at, ttl_seconds, last_heartbeat, request_id
from bloom.leases
where worker_id = any(%(worker_ids)s) and request_id = any(%(request_ids)s)
order by seq;
