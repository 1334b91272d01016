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
        last_heartbeat = excluded.last_heartbeat,
        from_membridge = false
    returning w.id, w.status, w.max_concurrency, (xmax = 0) as inserted
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select now, case when inserted then 'worker_registered' else 'worker_updated' end, 'worker', u.id, %(actor)s,
           json_build_object('status', u.status, 'slots', u.max_concurrency)
    from upserted u, input
)
select inserted from upserted;

-- name: list_many
-- What Membridge's list says of (locked) workers. One that is new is registered; one that only Membridge knows takes over what
-- changed; for one that registered here it is a sign of life, if it was seen in the last %(after_sec)s seconds. Writes
-- audit entries for what is new or changed. `came_online`: somebody may take tasks now who could not before.
with input as (
    select i.id, i.url, i.claude_cli, i.max_concurrency, i.labels, m.now,
           m.now - make_interval(secs => i.age_sec) as heard_at,
           i.age_sec < %(after_sec)s and i.status is distinct from 'offline' as heard,
           case when i.status in ('offline', 'syncing', 'error') then i.status else 'online' end as status
    from json_to_recordset(%(items)s) as i(id text, url text, status text, claude_cli boolean, max_concurrency integer,
                                           labels text[], age_sec double precision),
         (select coalesce(%(now)s::timestamptz, now()) as now) m
), before as (
    select w.id, w.status, w.url, w.claude_cli, w.max_concurrency, w.labels
    from bloom.workers w join input i on i.id = w.id
), updated as (
    update bloom.workers w
    set last_heartbeat = case when i.heard then greatest(w.last_heartbeat, i.heard_at) else w.last_heartbeat end,
        status = case when w.from_membridge and i.status = 'offline' then 'offline'
                      when not i.heard then w.status
                      when w.from_membridge then i.status
                      when w.status in ('offline', 'unknown') then 'online'
                      else w.status end,
        url = case when w.from_membridge then coalesce(i.url, w.url) else w.url end,
        claude_cli = case when w.from_membridge then coalesce(i.claude_cli, w.claude_cli) else w.claude_cli end,
        max_concurrency = case when w.from_membridge then coalesce(i.max_concurrency, w.max_concurrency)
                               else w.max_concurrency end,
        labels = case when w.from_membridge then coalesce(i.labels, w.labels) else w.labels end
    from input i
    where w.id = i.id
    returning w.id, w.status, w.url, w.claude_cli, w.max_concurrency, w.labels
), inserted as (
    insert into bloom.workers (id, url, status, claude_cli, max_concurrency, labels, registered_at, last_heartbeat,
                               from_membridge)
    select id, url, case when heard then status else 'offline' end, coalesce(claude_cli, true),
           coalesce(max_concurrency, 1), coalesce(labels, '{}'), now, heard_at, true
    from input
    where id not in (select id from before)
    order by id
    on conflict (id) do nothing
    returning id, status
), audited as (
    insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
    select i.now, c.action, 'worker', c.id, %(actor)s, json_build_object('status', c.status)
    from (
        select id, status, 'worker_registered' as action from inserted
        union all
        select u.id, u.status, 'worker_updated' from updated u join before b on b.id = u.id
        where (u.url, u.claude_cli, u.max_concurrency, u.labels)
              is distinct from (b.url, b.claude_cli, b.max_concurrency, b.labels)
    ) c
    join input i on i.id = c.id
)
select exists (select from inserted where status = 'online')
    or exists (select from updated u join before b on b.id = u.id
               where u.status = 'online' and (b.status <> 'online' or u.max_concurrency > b.max_concurrency
                                              or u.labels <> b.labels)) as came_online;

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
-- Note until when each worker's claim waits for a task; null: it does not. A claim that looked once more waits until the
-- same moment as before, so nothing is written for it.
with input as (
    select i.worker_id, coalesce(%(now)s::timestamptz, now()) + make_interval(secs => i.wait_sec) as until
    from json_to_recordset(%(items)s) as i(worker_id text, wait_sec double precision)
)
update bloom.workers w
set polling_until = i.until
from input i
where w.id = i.worker_id
  and ((i.until is null) <> (w.polling_until is null)
       or abs(extract(epoch from i.until - w.polling_until)) > 1);

-- name: mark_silent
-- Workers that use claim or come from Membridge and were not heard from for %(after_sec)s seconds are offline; an open
-- claim is a sign of life.
update bloom.workers w set status = 'offline', polling_until = null
where w.id in (
    select id from bloom.workers
    where (claims or from_membridge) and status <> 'offline'
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

-- name: count_by_state
-- How many workers are in each state, draining or not, and the slots that they have together.
select status, draining, count(*) as workers, sum(max_concurrency) as slots
from bloom.workers group by status, draining order by status, draining;

-- name: count
-- How many there are, and how many of them are online.
select count(*) as total, count(*) filter (where status = 'online') as online from bloom.workers;
