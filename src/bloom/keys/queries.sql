-- Named keys. Rows are never deleted: the audit log and idempotency keys know a key by its name.

-- name: insert
-- A new key with its audit entry. No row: the name is taken.
with input as (
    select coalesce(%(now)s::timestamptz, now()) as now
), inserted as (
    insert into bloom.keys as k (id, name, role, worker_name, starts_with, digest, created_at, created_by, expires_at)
    select %(id)s, %(name)s, %(role)s, %(worker_name)s, %(starts_with)s, %(digest)s, now, %(actor)s,
           coalesce(%(expires_at)s::timestamptz, now + make_interval(secs => %(expires_in_sec)s))
    from input
    on conflict (name) do nothing
    returning k.id, k.seq, k.name, k.role, k.worker_name, k.starts_with, k.created_at, k.created_by, k.expires_at,
              k.last_used_at, k.used_up_at, k.revoked_at, k.rotated_at, k.previous_until
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select created_at, 'key_created', 'key', id, %(actor)s,
           json_strip_nulls(json_build_object('name', name, 'role', role, 'worker_name', worker_name,
                                              'expires_at', floor(extract(epoch from expires_at) * 1000)::bigint,
                                              'join_token', %(join_token)s::text))
    from inserted
)
select *, coalesce(expires_at <= created_at, false) as expired from inserted;

-- name: by_id
-- One key.
select id, seq, name, role, worker_name, starts_with, created_at, created_by, expires_at, last_used_at, used_up_at,
       revoked_at, rotated_at, previous_until,
       coalesce(expires_at <= coalesce(%(now)s::timestamptz, now()), false) as expired
from bloom.keys where id = %(id)s;

-- name: page
-- One page of keys, newest first, before the key `before`.
select id, seq, name, role, worker_name, starts_with, created_at, created_by, expires_at, last_used_at, used_up_at,
       revoked_at, rotated_at, previous_until,
       coalesce(expires_at <= coalesce(%(now)s::timestamptz, now()), false) as expired
from bloom.keys
where seq < coalesce(%(before)s, 9223372036854775807)
order by seq desc
limit %(limit)s;

-- name: find_valid
-- Those of the keys with these secrets, be it the one before the last rotation, or with these ids, that are valid now, and for how
-- long they stay so if nobody revokes them.
select shown.digest, k.id, k.name, k.role, k.worker_name,
       extract(epoch from shown.until - coalesce(%(now)s::timestamptz, now()))::float8 as seconds_left
from (
    select id, digest, expires_at as until from bloom.keys where digest = any(%(digests)s)
    union all
    select id, previous_digest, previous_until from bloom.keys where previous_digest = any(%(digests)s)
    union all
    select id, null, expires_at from bloom.keys where id = any(%(ids)s)
) as shown
join bloom.keys as k using (id)
where k.revoked_at is null and k.used_up_at is null
  and (shown.until is null or shown.until > coalesce(%(now)s::timestamptz, now()));

-- name: used_many
-- These keys were used: note it, at most once a minute for each.
update bloom.keys set last_used_at = coalesce(%(now)s::timestamptz, now())
where id in (
    select id from bloom.keys
    where id = any(%(ids)s)
      and (last_used_at is null or last_used_at < coalesce(%(now)s::timestamptz, now()) - interval '1 minute')
    order by id for no key update
);

-- name: revoke
-- End a key for ever; writes its audit entry. No row: there is none, or it was revoked before.
with revoked as (
    update bloom.keys set revoked_at = coalesce(%(now)s::timestamptz, now())
    where id = %(id)s and revoked_at is null
    returning id, name, role, worker_name, revoked_at
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select revoked_at, 'key_revoked', 'key', id, %(actor)s,
           json_strip_nulls(json_build_object('name', name, 'role', role, 'worker_name', worker_name))
    from revoked
)
select id from revoked;

-- name: rotate
-- Give a valid key a new secret, with a life as long as that of the one before unless told otherwise. The one before stays valid for
-- the overlap, but not beyond its own end, nor that of the new one. Writes its audit entry. No row: there is no such key,
-- it is not valid, or it is a join token.
with input as (
    select coalesce(%(now)s::timestamptz, now()) as now, make_interval(secs => %(overlap_sec)s) as overlap
), lives as (
    select k.id, input.now, k.digest as old_digest, k.expires_at as old_end,
           input.now + coalesce(make_interval(secs => %(expires_in_sec)s),
                                k.expires_at - coalesce(k.rotated_at, k.created_at)) as new_end
    from bloom.keys as k, input
    where k.id = %(id)s and k.role <> 'join' and k.revoked_at is null
      and (k.expires_at is null or k.expires_at > input.now)
    for no key update of k
), rotated as (
    update bloom.keys as k
    set digest = %(digest)s, starts_with = %(starts_with)s, rotated_at = lives.now, expires_at = lives.new_end,
        previous_digest = lives.old_digest,
        previous_until = least(lives.now + (select overlap from input), lives.old_end, lives.new_end)
    from lives
    where k.id = lives.id
    returning k.id, k.seq, k.name, k.role, k.worker_name, k.starts_with, k.created_at, k.created_by, k.expires_at,
              k.last_used_at, k.used_up_at, k.revoked_at, k.rotated_at, k.previous_until
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select rotated_at, 'key_rotated', 'key', id, %(actor)s,
           json_strip_nulls(json_build_object('name', name, 'role', role, 'worker_name', worker_name,
                                              'expires_at', floor(extract(epoch from expires_at) * 1000)::bigint,
                                              'previous_until', floor(extract(epoch from previous_until) * 1000)::bigint))
    from rotated
)
select *, false as expired from rotated;

-- name: use_up
-- Use a join token up, if it is valid and not made for another worker: of several calls at once one gets the row.
update bloom.keys
set used_up_at = coalesce(%(now)s::timestamptz, now()), last_used_at = coalesce(%(now)s::timestamptz, now())
where digest = %(digest)s and role = 'join' and revoked_at is null and used_up_at is null
  and expires_at > coalesce(%(now)s::timestamptz, now())
  and (%(wanted)s::text is null or coalesce(worker_name, %(wanted)s) = %(wanted)s)
returning id, name, worker_name;

-- name: join_token
-- What is known of a join token that could not be used up; no row: it is none.
select worker_name, revoked_at is null and used_up_at is null
                    and expires_at > coalesce(%(now)s::timestamptz, now()) as valid
from bloom.keys where digest = %(digest)s and role = 'join';

-- name: lock_worker_name
-- Let nobody else take this worker name until the transaction ends.
select pg_advisory_xact_lock(hashtextextended('bloom join ' || %(worker_name)s, 0));

-- name: worker_name_taken
-- Whether a worker has, had or may have this name: whoever joins under a name of its own choice gets nobody's tasks by it.
select exists (select from bloom.workers where id = %(worker_name)s)
       or exists (select from bloom.keys where worker_name = %(worker_name)s and role = 'worker')
       or exists (select from bloom.leases where worker_id = %(worker_name)s) as taken;
