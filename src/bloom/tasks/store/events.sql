-- Events of runs, appended under the lock of their task.

-- name: append_events
-- Append events to one task whose row is locked; those stored before are left out.
with input as (
    select * from json_to_recordset(%(items)s) as i(seq bigint, at timestamptz, type text, data json)
), last as (
    select coalesce(max(id), 0) as id from bloom.task_events where task_id = %(task_id)s
)
insert into bloom.task_events (task_id, id, lease_id, seq, at, type, data)
select %(task_id)s, last.id + row_number() over (order by i.seq), %(lease_id)s, i.seq,
       coalesce(i.at, %(now)s::timestamptz, now()), i.type, i.data
from input i, last;

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
