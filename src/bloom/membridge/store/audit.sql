-- Membridge's own audit log: append only.

-- name: add
-- One entry, in the transaction that changes the state.
insert into membridge.audit_log (at, action, entity_type, entity_id, actor, detail)
values (coalesce(%(now)s, clock_timestamp()), %(action)s, %(entity_type)s, %(entity_id)s, %(actor)s, %(detail)s);

-- name: page
-- The newest entries, of everything or of one thing.
select id, at, action, entity_type, entity_id, actor, detail
from membridge.audit_log
where (%(entity_id)s::text is null or entity_id = %(entity_id)s) and id < coalesce(%(before)s, 9223372036854775807)
order by id desc
limit %(limit)s;
