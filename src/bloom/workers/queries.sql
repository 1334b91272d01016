-- The machines that take tasks. Locks: workers before tasks before leases, in id order.

-- name: all
-- Every worker with its active leases counted, by name.
select w.id, w.node_id, w.url, w.status, w.draining, w.claims, w.claude_cli, w.max_concurrency, w.labels, w.ip_addrs,
       w.obs_count, w.db_sha, w.agent_version, w.os_info, w.install_method, w.registered_at, w.last_heartbeat,
       w.board,
       (select count(*) from bloom.leases l where l.worker_id = w.id and l.status = 'active') as active_leases
from bloom.workers w
order by w.id;

-- name: by_ids
-- The workers of these ids. After `lock` it sees the leases that earlier holders of the locks have granted.
select w.id, w.node_id, w.url, w.status, w.draining, w.claims, w.claude_cli, w.max_concurrency, w.labels, w.ip_addrs,
       w.obs_count, w.db_sha, w.agent_version, w.os_info, w.install_method, w.registered_at, w.last_heartbeat,
       w.board,
       (select count(*) from bloom.leases l where l.worker_id = w.id and l.status = 'active') as active_leases
from bloom.workers w
where w.id = any(%(ids)s)
order by w.id;

-- name: routable
-- Workers that the router may choose from, those with most free slots first.
select w.id, w.node_id, w.url, w.status, w.draining, w.claims, w.claude_cli, w.max_concurrency, w.labels, w.ip_addrs,
       w.obs_count, w.db_sha, w.agent_version, w.os_info, w.install_method, w.registered_at, w.last_heartbeat,
       w.board,
       held.active_leases
from bloom.workers w
cross join lateral (
    select count(*) as active_leases from bloom.leases l where l.worker_id = w.id and l.status = 'active'
) held
where w.status = 'online' and not w.draining and w.claude_cli and held.active_leases < w.max_concurrency
order by w.max_concurrency - held.active_leases desc, w.id;

-- name: lock
-- Lock these workers, in id order; a statement after it counts their leases.
select id from bloom.workers where id = any(%(ids)s) order by id for no key update;

-- name: upsert
-- Insert or update one worker by name; null means: keep. Writes its audit entry; `inserted` tells which it was.
with input as (
    select %(id)s::text as id, coalesce(%(now)s::timestamptz, now()) as now
), before as (
    select status from bloom.workers where id = %(id)s
), upserted as (
    insert into bloom.workers as w (id, url, status, claude_cli, max_concurrency, labels, ip_addrs, agent_version,
                                    os_info, install_method, registered_at, last_heartbeat)
    select id, %(url)s, coalesce(%(status)s, 'online'), coalesce(%(claude_cli)s, true),
           coalesce(%(max_concurrency)s, 1), coalesce(%(labels)s::text[], '{}'),
           coalesce(%(ip_addrs)s::text[], '{}'), %(agent_version)s, %(os_info)s, %(install_method)s, now, now
    from input
    on conflict (id) do update set
        url = coalesce(excluded.url, w.url),
        status = coalesce(%(status)s, case when w.status in ('offline', 'unknown') then 'online' else w.status end),
        claude_cli = coalesce(%(claude_cli)s, w.claude_cli),
        max_concurrency = coalesce(%(max_concurrency)s, w.max_concurrency),
        labels = coalesce(%(labels)s::text[], w.labels),
        ip_addrs = coalesce(%(ip_addrs)s::text[], w.ip_addrs),
        agent_version = coalesce(excluded.agent_version, w.agent_version),
        os_info = coalesce(excluded.os_info, w.os_info),
        install_method = coalesce(excluded.install_method, w.install_method),
        last_heartbeat = excluded.last_heartbeat
    returning w.id, w.status, w.max_concurrency, (xmax = 0) as inserted
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select now, case when inserted then 'worker_registered' else 'worker_updated' end, 'worker', u.id, %(actor)s,
           json_build_object('status', u.status, 'slots', u.max_concurrency)
    from upserted u, input
)
select inserted from upserted;

-- name: set_draining
-- Drain or resume one worker; writes its audit entry when this changes anything. No row: no such worker.
with changed as (
    update bloom.workers set draining = %(draining)s where id = %(id)s and draining <> %(draining)s returning id
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor)
    select coalesce(%(now)s::timestamptz, now()), %(action)s, 'worker', id, %(actor)s from changed
)
select id from bloom.workers where id = %(id)s;

-- name: heard_from_many
-- These workers spoke: note it and what they told of their machines (at most every five seconds), and whoever was offline
-- is online again.
update bloom.workers w
set last_heartbeat = coalesce(%(now)s::timestamptz, now()),
    board = coalesce(%(boards)s::json -> w.id, w.board),
    claims = w.claims or %(claims)s,
    status = case when w.status in ('offline', 'unknown') then 'online' else w.status end
where w.id in (
    select id from bloom.workers
    where id = any(%(ids)s)
      and (status in ('offline', 'unknown') or claims < %(claims)s or last_heartbeat is null
           or last_heartbeat < coalesce(%(now)s::timestamptz, now()) - interval '5 seconds')
    order by id for no key update
);

-- name: set_polling_many
-- Note until when each worker's claim waits for a task; null: it does not.
update bloom.workers w
set polling_until = coalesce(%(now)s::timestamptz, now()) + make_interval(secs => i.wait_sec)
from json_to_recordset(%(items)s) as i(worker_id text, wait_sec double precision)
where w.id = i.worker_id and (i.wait_sec is not null or w.polling_until is not null);

-- name: mark_silent
-- Workers that use claim and were not heard from for %(after_sec)s seconds are offline; an open claim is a sign of life.
update bloom.workers w set status = 'offline', polling_until = null
where w.id in (
    select id from bloom.workers
    where claims and status <> 'offline'
      and greatest(last_heartbeat, polling_until)
          < coalesce(%(now)s::timestamptz, now()) - make_interval(secs => %(after_sec)s)
    order by id for no key update skip locked
)
returning w.id;

-- name: mark_expired_holders
-- Workers that never used claim are offline once a lease of theirs expired, unless they were heard from since.
update bloom.workers w set status = 'offline'
where w.id in (
    select x.id from bloom.workers x
    join json_to_recordset(%(items)s) as i(worker_id text, expires_at timestamptz) on i.worker_id = x.id
    where not x.claims and x.status <> 'offline' and (x.last_heartbeat is null or x.last_heartbeat <= i.expires_at)
    order by x.id for no key update of x
);

-- name: count
-- How many there are, and how many of them are online.
select count(*) as total, count(*) filter (where status = 'online') as online from bloom.workers;
