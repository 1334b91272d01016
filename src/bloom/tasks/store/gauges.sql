-- What a look at the queue tells an operator. Bounded, however long the queue is.

-- name: waiting
-- What can be claimed, by its set of labels: of the first %(sets)s sets the number, up to %(most)s each, and since when the
-- oldest of those counted has waited. The walk goes along the index as `lock_candidates` does.
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
    where s.n <= %(sets)s
)
select s.labels, s.n, found.tasks,
       extract(epoch from coalesce(%(now)s::timestamptz, now()) - found.since)::float8 as oldest_sec
from sets s
cross join lateral (
    select count(*) as tasks, min(greatest(c.updated_at, c.run_at)) as since
    from (
        select t.updated_at, t.run_at from bloom.tasks t
        where t.status = 'queued' and t.due and t.turn and t.labels collate "C" = s.labels
        order by t.priority desc, t.seq
        limit %(most)s
    ) c
) found
order by s.n;

-- name: ages
-- Since when the oldest claimable task has waited, the oldest active lease is held, and how many tasks, up to %(most)s each,
-- wait for their time or their turn, and how many outputs for the object store.
select extract(epoch from moment.now - (
           select greatest(t.updated_at, t.run_at) from bloom.tasks t where t.status = 'queued' and t.due
           order by greatest(t.updated_at, t.run_at) limit 1))::float8 as queued_sec,
       extract(epoch from moment.now - (
           select min(l.started_at) from bloom.leases l where l.status = 'active'))::float8 as held_sec,
       (select count(*) from (select from bloom.tasks t where t.status = 'queued' and not t.due limit %(most)s) c)
           as scheduled,
       (select count(*) from (select from bloom.tasks t where t.status = 'queued' and not t.turn limit %(most)s) c)
           as without_turn,
       (select count(*) from (select from bloom.artifacts a where a.moves_to_store limit %(most)s) c) as outputs_to_move
from (select coalesce(%(now)s::timestamptz, now()) as now) moment;
