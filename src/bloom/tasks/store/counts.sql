-- How many tasks are in each state, and how many leases there are: the sum of the rows of `counts`, to which each statement
-- that changes this appends what it changed.

-- name: total
-- The counts as of this moment.
select sum(queued)::bigint as queued, sum(leased)::bigint as leased, sum(running)::bigint as running,
       sum(completed)::bigint as completed, sum(failed)::bigint as failed, sum(dead)::bigint as dead,
       sum(cancelled)::bigint as cancelled, sum(leases)::bigint as leases
from bloom.counts;

-- name: lock
-- True for one at a time, until its transaction ends: what is counted anew must not be folded meanwhile.
select pg_try_advisory_xact_lock(%(key)s) as locked;

-- name: fold
-- Put the sum of up to %(limit)s rows in their place.
with gone as (
    delete from bloom.counts where ctid = any(array(select ctid from bloom.counts limit %(limit)s)) returning *
)
insert into bloom.counts (queued, leased, running, completed, failed, dead, cancelled, leases, counted_at)
select sum(queued), sum(leased), sum(running), sum(completed), sum(failed), sum(dead), sum(cancelled), sum(leases),
       max(counted_at)
from gone having count(*) > 0;

-- name: counted_recently
-- Whether the tables themselves were counted within the last day, and how many rows there are.
select coalesce(max(counted_at) > coalesce(%(now)s::timestamptz, now()) - interval '1 day', false) as recently,
       count(*) as rows
from bloom.counts;

-- name: count_anew
-- Count the tables themselves. One snapshot shows what was changed and what was appended of it, or neither.
with gone as (
    delete from bloom.counts
)
insert into bloom.counts (queued, leased, running, completed, failed, dead, cancelled, leases, counted_at)
select count(*) filter (where status = 'queued'), count(*) filter (where status = 'leased'),
       count(*) filter (where status = 'running'), count(*) filter (where status = 'completed'),
       count(*) filter (where status = 'failed'), count(*) filter (where status = 'dead'),
       count(*) filter (where status = 'cancelled'), (select count(*) from bloom.leases),
       coalesce(%(now)s::timestamptz, now())
from bloom.tasks;
