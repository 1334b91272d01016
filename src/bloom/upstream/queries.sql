-- The one row that says where Membridge is, and how it answered.

-- name: read
-- What is saved.
select url, admin_key, revision, tested_at, failures, last_success, last_error from bloom.membridge_connection;

-- name: lock
-- The same; whoever saves waits for the transaction of who holds it.
select url, admin_key, revision, tested_at, failures, last_success, last_error from bloom.membridge_connection
for no key update;

-- name: save
-- Another address or key: what was known of the connection before is of another one. Writes its audit entry.
with saved as (
    update bloom.membridge_connection
    set url = %(url)s, admin_key = %(admin_key)s, revision = revision + 1, next_sync_at = now(),
        failures = 0, last_success = null, last_error = null
    returning url, admin_key, revision, tested_at, failures, last_success, last_error
), audited as (
    insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
    select 'config_updated', 'config', 'membridge', %(actor)s,
           json_build_object('membridge_server_url', url, 'key_changed', %(key_changed)s::boolean)
    from saved
)
select url, admin_key, revision, tested_at, failures, last_success, last_error from saved;

-- name: tested
-- The connection was tested; writes its audit entry.
with tested as (
    update bloom.membridge_connection set tested_at = coalesce(%(now)s::timestamptz, now()) returning tested_at
)
insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
select tested_at, 'connection_test', 'config', 'membridge', %(actor)s,
       json_build_object('connected', %(connected)s::boolean, 'error', %(error)s::text)
from tested;

-- name: claim_sync
-- Take the sync if it is due (or due later than can be: the clock went back): one replica gets it. In any case say when the
-- next one is due.
with moment as (
    select coalesce(%(now)s::timestamptz, now()) as now
), claimed as (
    update bloom.membridge_connection
    set next_sync_at = moment.now + make_interval(secs => %(every_sec)s)
    from moment
    where next_sync_at not between moment.now + interval '1 microsecond' and moment.now + make_interval(secs => %(every_sec)s)
    returning next_sync_at
)
select exists (select from claimed) as claimed,
       extract(epoch from coalesce((select next_sync_at from claimed), c.next_sync_at) - moment.now)::float8 as wait_sec
from bloom.membridge_connection c, moment;

-- name: note_sync
-- What a sync found, unless another connection was saved meanwhile.
update bloom.membridge_connection
set failures = %(failures)s, last_success = %(last_success)s, last_error = %(last_error)s
where revision = %(revision)s;

-- name: promoted
-- The audit entry of a change of leadership that Membridge was asked for.
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
values ('leadership_promote', 'project', %(id)s, %(actor)s, %(detail)s);

-- name: sync_ordered
-- The audit entry of a sync job that Membridge was asked for.
insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
values ('sync_ordered', 'project', %(id)s, %(actor)s, %(detail)s);
