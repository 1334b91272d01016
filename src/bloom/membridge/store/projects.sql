-- Projects and the nodes that take part in them.

-- name: all
-- Every project, by name.
select project.*, (select count(*) from membridge.nodes node where node.canonical_id = project.canonical_id) as nodes_count
from membridge.projects project
order by project.name, project.canonical_id;

-- name: by_id
-- One project.
select project.*, (select count(*) from membridge.nodes node where node.canonical_id = project.canonical_id) as nodes_count
from membridge.projects project
where project.canonical_id = %(canonical_id)s;

-- name: lock
-- One project, locked until the transaction ends: all that decides about leadership and versions does this first.
select * from membridge.projects where canonical_id = %(canonical_id)s for no key update;

-- name: insert
-- A new project. Its epochs go on where those of a deleted one of the same name ended.
insert into membridge.projects (canonical_id, name, source, created_at, epoch)
values (
    %(canonical_id)s, %(name)s, %(source)s, coalesce(%(now)s, now()),
    coalesce((select max(epoch) from membridge.terms where canonical_id = %(canonical_id)s), 0)
)
on conflict (canonical_id) do nothing
returning *;

-- name: heard_of
-- The project of a heartbeat, locked, made if it is new; `name` becomes known with the first heartbeat that tells it.
insert into membridge.projects (canonical_id, name, source, created_at, last_seen, epoch)
values (
    %(canonical_id)s, coalesce(%(name)s, %(canonical_id)s), 'heartbeat', coalesce(%(now)s, now()), coalesce(%(now)s, now()),
    coalesce((select max(epoch) from membridge.terms where canonical_id = %(canonical_id)s), 0)
)
on conflict (canonical_id) do update set
    name = coalesce(%(name)s, projects.name),
    last_seen = greatest(projects.last_seen, excluded.last_seen)
returning *, xmax = 0 as inserted;

-- name: give_name
-- A project that was known by its id alone becomes the one that a person made.
update membridge.projects set name = %(name)s, source = 'manual'
where canonical_id = %(canonical_id)s and name = canonical_id and name <> %(name)s
returning *;

-- name: delete
-- The project, and with it its nodes, versions and jobs.
delete from membridge.projects where canonical_id = %(canonical_id)s;

-- name: contents
-- How much goes with a project.
select
    (select count(*) from membridge.nodes where canonical_id = %(canonical_id)s) as nodes,
    (select count(*) from membridge.versions where canonical_id = %(canonical_id)s) as versions,
    (select count(*) from membridge.jobs where canonical_id = %(canonical_id)s) as jobs;

-- name: counts
-- How many projects and agents there are.
select (select count(*) from membridge.projects) as projects, (select count(*) from membridge.agents) as agents;

-- name: clock
-- The time now, by the database; asked for after a lock was had, it is not older than what the one before wrote.
select coalesce(%(now)s, clock_timestamp()) as now;

-- name: upsert_node
-- A node's heartbeat; what it leaves out is kept.
insert into membridge.nodes (
    canonical_id, node_id, project_id, obs_count, db_sha, ip_addrs, agent_version, asks, registered_at, last_seen
)
values (
    %(canonical_id)s, %(node_id)s, %(project_id)s, %(obs_count)s, %(db_sha)s, coalesce(%(ip_addrs)s::text[], '{}'),
    %(agent_version)s, %(asks)s, %(now)s, %(now)s
)
on conflict (canonical_id, node_id) do update set
    project_id = coalesce(%(project_id)s, nodes.project_id),
    obs_count = coalesce(%(obs_count)s, nodes.obs_count),
    db_sha = coalesce(%(db_sha)s, nodes.db_sha),
    ip_addrs = coalesce(%(ip_addrs)s::text[], nodes.ip_addrs),
    agent_version = coalesce(%(agent_version)s, nodes.agent_version),
    asks = %(asks)s,
    last_seen = greatest(nodes.last_seen, %(now)s);

-- name: nodes
-- The nodes of a project, by id.
select * from membridge.nodes where canonical_id = %(canonical_id)s order by node_id;

-- name: set_node_sha
-- What memory a node has now.
update membridge.nodes set db_sha = %(sha256)s where canonical_id = %(canonical_id)s and node_id = %(node_id)s;
