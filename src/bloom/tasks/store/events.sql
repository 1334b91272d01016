-- Events of runs, appended under the lock of their task.

-- name: append_events
-- Append events to one task whose row is locked, while this lease is its current one and its worker's. Those stored before
-- are left out.
with input as (
    select * from json_to_recordset(%(items)s) as i(seq bigint, at timestamptz, type text, data json)
), last as (
    select coalesce(max(id), 0) as id from bloom.task_events where task_id = %(task_id)s
)
insert into bloom.task_events (task_id, id, lease_id, seq, at, type, data)
select %(task_id)s, last.id + row_number() over (order by i.seq), %(lease_id)s, i.seq,
       coalesce(i.at, %(now)s::timestamptz, now()), i.type, i.data
from input i, last
where exists (
    select from bloom.tasks t
    where t.id = %(task_id)s and t.lease_id = %(lease_id)s and case when t.status in ('leased', 'running') then true end
      and (%(worker_id)s::text is null or t.worker_id = %(worker_id)s));

-- name: last_event_seq
-- The last stored `seq` of a lease, null for none.
select max(seq) as seq from bloom.task_events where lease_id = %(lease_id)s;

-- name: events_after
-- The events of a task after the event `after`, in order.
select id, task_id, lease_id, seq, at, type, data
from bloom.task_events
where task_id = %(task_id)s and id > %(after)s
order by id
limit %(limit)s;

-- name: newest_events
-- The newest events of a task that take no more than %(chars)s characters together, at most %(limit)s; the last one in any
-- case.
select id, task_id, lease_id, seq, at, type, data
from (
    select *, sum(length(data::text)) over (order by id desc) - length(data::text) as told_after
    from (select * from bloom.task_events where task_id = %(task_id)s order by id desc limit %(limit)s) newest
) e
where told_after < %(chars)s
order by id;
