-- Large outputs on their way. Whoever writes one holds the lock of its task; only the holder of its lease may.

-- name: remove
-- Forget the upload of a lease, and all that was received.
delete from bloom.uploads where lease_id = %(lease_id)s and task_id = %(task_id)s and not kept;

-- name: open
-- An upload for the current lease of a locked task, unless there is one.
insert into bloom.uploads (id, task_id, lease_id)
select %(id)s, t.id, l.id
from bloom.tasks t join bloom.leases l on l.id = t.lease_id
where t.id = %(task_id)s and l.id = %(lease_id)s and case when t.status in ('leased', 'running') then l.status = 'active' end
on conflict (lease_id) do nothing;

-- name: by_lease
-- How far the upload of a lease is.
select id, received, unfinished from bloom.uploads where lease_id = %(lease_id)s and task_id = %(task_id)s;

-- name: append
-- The next piece of an upload, if it belongs to the current lease of the (locked) task and all before it was received.
with grown as (
    update bloom.uploads u
    set received = u.received + %(size)s, chunks = u.chunks + 1, unfinished = %(unfinished)b, sha256 = %(sha256)s,
        updated_at = coalesce(%(now)s::timestamptz, now())
    from bloom.tasks t join bloom.leases l on l.id = t.lease_id
    where u.id = %(id)s and u.received = %(offset)s and not u.kept
      and t.id = u.task_id and t.lease_id = u.lease_id
      and case when t.status in ('leased', 'running') then l.status = 'active' end
    returning u.id, u.chunks - 1 as n
)
insert into bloom.upload_chunks (upload_id, n, data) select id, n, %(data)b from grown
returning n;

-- name: sweep
-- Forget uploads whose lease has ended without making them an artifact, an hour after their last piece.
delete from bloom.uploads
where id in (
    select u.id from bloom.uploads u
    where not u.kept and u.updated_at < coalesce(%(now)s::timestamptz, now()) - interval '1 hour'
      and not exists (select from bloom.leases l where l.id = u.lease_id and l.status = 'active')
    order by u.updated_at
    limit %(limit)s
    for update skip locked);
