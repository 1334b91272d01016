-- Finished work whose lease was no longer its own. Nothing else knows of these.

-- name: keep_many
-- Keep the first report of each lease that has ended without a result, and of each task only the newest. Only the worker and
-- the task of the lease count.
with input as (
    select i.*, coalesce(%(now)s::timestamptz, now()) as now
    from json_to_recordset(%(items)s) as i(
        task_id text, lease_id text, worker_id text, status text, output text, output_cut boolean, error_message text,
        code text, metrics json, result_id text)
), late as (
    select distinct on (l.id) i.*,
           case l.status when 'expired' then 'lease_expired' else 'lease_ended' end as reason
    from input i
    join bloom.leases l on l.id = i.lease_id and l.task_id = i.task_id and l.worker_id = i.worker_id
    where l.status <> 'active' and not exists (select from bloom.results r where r.lease_id = l.id)
      and not exists (select from bloom.rejected_results r where r.lease_id = l.id)
    order by l.id
), dropped as (
    delete from bloom.rejected_results
    where id in (
        select k.id from (select distinct task_id from late) t
        cross join lateral (
            select r.id from bloom.rejected_results r where r.task_id = t.task_id
            order by r.rejected_at desc, r.id desc
            offset greatest(%(most)s - (select count(*) from late where late.task_id = t.task_id), 0)
        ) k)
)
insert into bloom.rejected_results (id, task_id, lease_id, worker_id, status, output, output_cut, error_message, code, metrics,
                                    reason, rejected_at)
select result_id, task_id, lease_id, worker_id, status, output, output_cut, error_message, code, metrics, reason, now
from late
on conflict (lease_id) do nothing;

-- name: by_id
-- One rejected result of a task, with all that is kept of its output.
select id, task_id, lease_id, worker_id, status, output, error_message, code, metrics, reason, rejected_at,
       output_cut as truncated
from bloom.rejected_results
where id = %(id)s and task_id = %(task_id)s;

-- name: by_task
-- The rejected results of one task, oldest first, outputs cut to %(cut)s characters.
select id, task_id, lease_id, worker_id, status, left(output, %(cut)s) as output, error_message, code, metrics, reason,
       rejected_at, output_cut or coalesce(length(output) > %(cut)s, false) as truncated
from bloom.rejected_results
where task_id = %(task_id)s
order by rejected_at, id;
