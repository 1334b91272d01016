-- The chain of hashes over the audit log, and what of it was exported. docs/audit.md describes the canonical bytes.

-- name: lock_chain
-- Whether the chain is this transaction's own to append to until it ends.
select pg_try_advisory_xact_lock(%(key)s) as mine;

-- name: digests
-- Entries behind the position (tx, id), in the order of the chain, with the SHA-256 of their canonical bytes: up to the
-- position (to_tx, to_id) or, without one, of transactions that are older than every one under way.
select id, tx::text as transaction, sha256(convert_to(concat(
           octet_length(id::text), ':', id, ',',
           octet_length(tx::text), ':', tx, ',',
           octet_length(micros), ':', micros, ',',
           octet_length(convert_to(action, 'UTF8')), ':', action, ',',
           octet_length(convert_to(entity_type, 'UTF8')), ':', entity_type, ',',
           octet_length(convert_to(entity_id, 'UTF8')), ':', entity_id, ',',
           octet_length(convert_to(actor, 'UTF8')), ':', actor, ',',
           octet_length(convert_to(detail::text, 'UTF8')), ':', detail, ','), 'UTF8')) as digest
from bloom.audit_log
cross join lateral (
    select case when isfinite(at) then trunc(extract(epoch from at) * 1000000)::text else at::text end as micros) as m
where (tx, id) > (%(tx)s::xid8, %(id)s)
  and (tx, id) <= (coalesce(%(to_tx)s::xid8, bloom.audit_horizon()), %(to_id)s)
order by tx, id
limit %(limit)s;

-- name: entries
-- Entries by their ids, as text, as they are exported.
select id as key, id::text, tx::text as transaction,
       case when isfinite(at) then trunc(extract(epoch from at) * 1000000)::text else at::text end as at,
       action, entity_type, entity_id, actor, detail::text as detail
from bloom.audit_log
where id = any(%(ids)s);

-- name: last_seal
-- The end of the chain.
select first_n, ids, marks, hash, last_tx::text, last_id from bloom.audit_seals order by first_n desc limit 1;

-- name: append
-- One more seal at the end of the chain. Fails when another sealer was faster.
insert into bloom.audit_seals (first_n, ids, marks, hash, last_tx, last_id)
values (%(first_n)s, %(ids)s, %(marks)s, %(hash)s, %(last_tx)s::xid8, %(last_id)s);

-- name: seals
-- Seals whose entries end at or behind the number %(n)s, in their order, and before them the last one of the others.
select first_n, ids, marks, hash, last_tx::text, last_id
from bloom.audit_seals
where first_n >= coalesce((select max(first_n) from bloom.audit_seals where first_n < %(n)s and last_n < %(n)s), 0)
order by first_n
limit %(limit)s;

-- name: tail
-- How many entries behind the position (tx, id) wait for their seal, and since when the oldest does.
select count(*) as unsealed, extract(epoch from now() - min(at) filter (where isfinite(at)))::float8 as age_sec
from bloom.audit_log
where (tx, id) > (%(tx)s::xid8, %(id)s);

-- name: first_since
-- The number of the first sealed entry, in the order of the chain, at or after the time %(since)s.
select s.first_n + array_position(s.ids, a.id) - 1 as n
from bloom.audit_log a
cross join lateral (
    select first_n, ids from bloom.audit_seals
    where (last_tx, last_id) >= (a.tx, a.id) order by first_n limit 1) as s
where a.at >= %(since)s
order by a.tx, a.id
limit 1;

-- name: last_until
-- The number of the last sealed entry, in the order of the chain, before the time %(until)s.
select s.first_n + array_position(s.ids, a.id) - 1 as n
from bloom.audit_log a
cross join lateral (
    select first_n, ids from bloom.audit_seals
    where (last_tx, last_id) >= (a.tx, a.id) order by first_n limit 1) as s
where a.at < %(until)s
order by a.tx desc, a.id desc
limit 1;

-- name: unfinished_export
-- The file that was begun first of those that may not be in the object store.
select first_n, last_n, hash, object_key from bloom.audit_exports where exported_at is null order by first_n limit 1;

-- name: plan_export
-- The next file: what was sealed since the last one, about %(most)s entries, named by the day of the first of them. None
-- within %(every_sec)s seconds of the last one, unless it is full; none either when another process has just planned it.
insert into bloom.audit_exports (first_n, last_n, hash, object_key)
select f.first_n, l.last_n, l.hash,
       concat('audit/', to_char(coalesce(a.at, f.sealed_at) at time zone 'UTC', 'YYYY/MM/DD/'),
              lpad(f.first_n::text, 12, '0'), '-', lpad(l.last_n::text, 12, '0'), '.jsonl')
from (select coalesce((select last_n from bloom.audit_exports order by first_n desc limit 1), 0) as n,
             (select planned_at from bloom.audit_exports order by first_n desc limit 1) as planned_at) as done
cross join lateral (
    select first_n, ids, sealed_at from bloom.audit_seals where first_n > done.n order by first_n limit 1) as f
cross join lateral (
    select last_n, hash from bloom.audit_seals
    where first_n >= f.first_n and first_n < f.first_n + %(most)s order by first_n desc limit 1) as l
left join bloom.audit_log a on a.id = f.ids[1] and isfinite(a.at)
where done.planned_at is null or done.planned_at <= now() - make_interval(secs => %(every_sec)s)
   or l.last_n >= f.first_n + %(most)s - 1
on conflict do nothing
returning first_n, last_n, hash, object_key;

-- name: exported
-- The file is in the object store.
update bloom.audit_exports set exported_at = now() where first_n = %(first_n)s and exported_at is null;

-- name: exports
-- All files, in their order.
select first_n, last_n, hash, object_key from bloom.audit_exports where exported_at is not null order by first_n;
