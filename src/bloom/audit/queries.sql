-- The audit log is written by the statements of the other slices; here it is only read.

-- name: page
-- One page of entries, newest first, before the entry `before`, of those that are wanted (null: any). Planned anew each time:
-- which index serves depends on how rare the wanted ones are.
select id, at, action, entity_type, entity_id, actor, detail
from bloom.audit_log
where id < coalesce(%(before)s, 9223372036854775807)
  and (%(action)s::text is null or action = %(action)s)
  and (%(actor)s::text is null or actor = %(actor)s)
  and (%(entity_type)s::text is null or entity_type = %(entity_type)s)
  and (%(entity_id)s::text is null or entity_id = %(entity_id)s)
  and (%(since)s::timestamptz is null or at >= %(since)s)
  and (%(until)s::timestamptz is null or at < %(until)s)
order by id desc
limit %(limit)s;

-- name: in_commit_order
-- Entries behind the position (tx, id) of transactions that are older than every one under way: no entry can come before
-- them any more, however late its transaction commits.
select id, at, action, entity_type, entity_id, actor, detail, tx::text as transaction
from bloom.audit_log
where (tx, id) > (%(tx)s::xid8, %(id)s) and tx < bloom.audit_horizon()
order by tx, id
limit %(limit)s;

-- name: horizon
-- The oldest transaction that is under way, and the next one that will begin.
select bloom.audit_horizon()::text as oldest,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint + bloom.audit_ahead() as next;
