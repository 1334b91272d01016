-- The audit log is written by the statements of the other slices; here it is only read.

-- name: page
-- One page of entries, newest first, before the entry `before`.
select id, at, action, entity_type, entity_id, actor, detail
from bloom.audit_log
where id < coalesce(%(before)s, 9223372036854775807)
order by id desc
limit %(limit)s;
