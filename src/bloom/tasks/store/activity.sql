-- What happened in each minute: the audit log, folded behind its writers, so that they pay nothing for it.

-- name: fold
-- Fold up to %(limit)s entries behind the position, in the order and up to the horizon of the audit stream. How many they were;
-- no row while another process is at it. What executors tell of tokens and cost is taken where it can be a figure.
with position as (
    select tx, entry from bloom.activity_position for update skip locked
), told as materialized (
    select a.tx, a.id, a.at, a.action, a.entity_id, a.detail ->> 'lease_id' as lease_id, a.detail ->> 'status' as status
    from position p cross join lateral (
        select * from bloom.audit_log a
        where (a.tx, a.id) > (p.tx, p.entry) and a.tx < bloom.audit_horizon()
        order by a.tx, a.id
        limit %(limit)s
    ) a
), figured as (
    select date_trunc('minute', e.at) as minute, e.action, e.status,
           case when e.action = 'task_leased' then (
               select greatest(extract(epoch from e.at - greatest(t.created_at, t.run_at)), 0)::float8
               from bloom.tasks t
               where t.id = e.entity_id and not exists (
                   select from bloom.leases l where l.task_id = t.id and l.id <> e.lease_id and l.started_at < e.at)
           ) end as wait_sec,
           case when json_typeof(r.metrics -> 'tokens_used') = 'number'
                then least((r.metrics ->> 'tokens_used')::numeric, 1e12)::bigint end as tokens,
           case when json_typeof(r.metrics -> 'cost_usd') = 'number'
                then least(greatest((r.metrics ->> 'cost_usd')::numeric, 0), 1e9)::float8 end as cost_usd
    from told e
    left join lateral (
        select metrics from bloom.results where lease_id = e.lease_id and e.action <> 'task_leased' limit 1
    ) r on true
    where e.action in ('task_created', 'task_leased', 'task_completed', 'task_retried', 'task_dead', 'task_cancelled')
), added as (
    insert into bloom.activity as a (minute, created, started, completed, failed, waits, wait_sec, tokens, cost_usd)
    select minute, count(*) filter (where action = 'task_created'), count(*) filter (where action = 'task_leased'),
           count(*) filter (where action = 'task_completed' and status = 'completed'),
           count(*) filter (where action = 'task_dead' or action = 'task_completed' and status = 'failed'),
           count(wait_sec), coalesce(sum(wait_sec), 0), coalesce(sum(tokens), 0), coalesce(sum(cost_usd), 0)
    from figured
    group by minute
    order by minute
    on conflict (minute) do update set
        created = a.created + excluded.created, started = a.started + excluded.started,
        completed = a.completed + excluded.completed, failed = a.failed + excluded.failed, waits = a.waits + excluded.waits,
        wait_sec = a.wait_sec + excluded.wait_sec, tokens = a.tokens + excluded.tokens, cost_usd = a.cost_usd + excluded.cost_usd
), moved as (
    update bloom.activity_position set (tx, entry) = (select tx, id from told order by tx desc, id desc limit 1)
    where exists (select from told)
)
select count(*) as entries from told having exists (select from position);

-- name: forget
-- Minutes that nobody looks at any more.
delete from bloom.activity where minute < coalesce(%(now)s::timestamptz, now()) - interval '400 days';

-- name: since
-- The minutes since then in which anything happened, oldest first.
select minute, created, started, completed, failed, waits, wait_sec, tokens, cost_usd
from bloom.activity
where minute >= %(since)s
order by minute;

-- name: spent_since
-- Tokens and cost since then.
select coalesce(sum(tokens), 0)::bigint as tokens, coalesce(sum(cost_usd), 0)::float8 as cost_usd,
       coalesce(sum(completed), 0)::bigint as completed, coalesce(sum(failed), 0)::bigint as failed
from bloom.activity
where minute >= %(since)s;
