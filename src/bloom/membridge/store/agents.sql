-- Agents: the machines that run sync jobs.

-- name: all
-- Every agent, by name.
select *, coalesce(%(now)s, now()) as now from membridge.agents order by name;

-- name: by_name
-- One agent.
select *, coalesce(%(now)s, now()) as now from membridge.agents where name = %(name)s;

-- name: upsert
-- Register an agent by its name; what an update leaves out (null) is kept.
insert into membridge.agents (name, url, status, claude_cli, max_concurrency, labels, registered_at, last_seen)
values (
    %(name)s, %(url)s, coalesce(%(status)s, 'online'), coalesce(%(claude_cli)s, true), coalesce(%(max_concurrency)s, 1),
    coalesce(%(labels)s::text[], '{}'), coalesce(%(now)s, now()), coalesce(%(now)s, now())
)
on conflict (name) do update set
    url = coalesce(%(url)s, agents.url),
    status = coalesce(%(status)s, nullif(agents.status, 'offline'), 'online'),
    claude_cli = coalesce(%(claude_cli)s, agents.claude_cli),
    max_concurrency = coalesce(%(max_concurrency)s, agents.max_concurrency),
    labels = coalesce(%(labels)s::text[], agents.labels),
    last_seen = greatest(agents.last_seen, excluded.last_seen)
returning *, coalesce(%(now)s, now()) as now, xmax = 0 as inserted;

-- name: heard_from
-- An agent came for its jobs, or reported on one.
update membridge.agents set
    status = coalesce(nullif(status, 'offline'), 'online'),
    last_seen = greatest(last_seen, coalesce(%(now)s, now())),
    polled_at = case when %(polls)s then greatest(polled_at, coalesce(%(now)s, now())) else polled_at end
where name = %(name)s;

-- name: delete
-- An agent goes.
delete from membridge.agents where name = %(name)s;
