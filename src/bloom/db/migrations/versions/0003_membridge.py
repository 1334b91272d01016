"""Membridge: projects, nodes, leadership, versions, agents, jobs and its own audit log, in a schema of its own."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UPGRADE = """
create schema membridge;

create table membridge.projects (
    canonical_id      text primary key check (canonical_id ~ '^[0-9a-f]{16}$'),
    name              text not null check (name <> ''),  -- the id, while nobody has told the name
    source            text not null check (source in ('manual', 'heartbeat')),
    created_at        timestamptz not null,
    last_seen         timestamptz,                       -- its last heartbeat
    epoch             bigint not null check (epoch >= 0),
    preferred_primary text,
    primary_node_id   text,                              -- who holds, or last held, the lease of this epoch
    lease_seconds     integer check (lease_seconds > 0),
    issued_at         timestamptz,
    issued_by         text,
    expires_at        timestamptz,
    current_sha256    text,
    publish_due_at    timestamptz,                       -- when lease.json is to be written; null: it is up to date
    publishing_until  timestamptz,                       -- a process writes it at this moment
    check (num_nulls(primary_node_id, lease_seconds, issued_at, issued_by, expires_at) in (0, 5)),
    check (primary_node_id is null or epoch > 0)
);
create index projects_to_publish on membridge.projects (publish_due_at) where publish_due_at is not null;

create table membridge.terms (                           -- who led, for ever: epochs outlive their project
    canonical_id  text not null,
    epoch         bigint not null check (epoch > 0),
    node_id       text not null,
    reason        text not null,
    lease_seconds integer not null,
    issued_at     timestamptz not null,
    issued_by     text not null,
    expires_at    timestamptz not null,                  -- as it was granted
    published_at  timestamptz,                           -- its copy in the bucket was written
    primary key (canonical_id, epoch)
);
create index terms_to_publish on membridge.terms (canonical_id, epoch) where published_at is null;

create table membridge.nodes (
    canonical_id  text not null references membridge.projects on delete cascade,
    node_id       text not null check (node_id <> ''),
    project_id    text,
    obs_count     bigint,
    db_sha        text,
    ip_addrs      text[] not null default '{}',
    agent_version text,
    asks          boolean not null,                      -- its last heartbeat asked for leadership
    registered_at timestamptz not null,
    last_seen     timestamptz not null,
    primary key (canonical_id, node_id)
);

create table membridge.versions (
    canonical_id text not null references membridge.projects on delete cascade,
    sha256       text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    seq          bigint generated always as identity,
    epoch        bigint not null,
    key          text not null,
    db_size      bigint not null check (db_size >= 0),
    counts       json not null,
    node_id      text not null,
    based_on     text,
    created_at   timestamptz not null,
    primary key (canonical_id, sha256)
);
create index versions_by_project on membridge.versions (canonical_id, seq);
alter table membridge.projects add foreign key (canonical_id, current_sha256) references membridge.versions;

create table membridge.agents (
    name            text primary key check (name <> ''),
    url             text,
    status          text not null check (status in ('online', 'offline', 'syncing', 'error', 'unknown')),
    claude_cli      boolean not null,
    max_concurrency integer not null check (max_concurrency between 1 and 32),
    labels          text[] not null,
    registered_at   timestamptz not null,
    last_seen       timestamptz not null,
    polled_at       timestamptz                          -- when it last came for its jobs
);

create table membridge.jobs (
    id           text primary key check (id <> ''),
    seq          bigint generated always as identity,
    action       text not null check (action in ('push', 'pull')),
    canonical_id text not null references membridge.projects on delete cascade,
    project      text not null,
    agent        text not null,
    dryrun       boolean not null,
    status       text not null check (status in ('queued', 'running', 'done', 'failed', 'timed_out')),
    detail       text,
    stdout       text,
    stderr       text,
    returncode   integer,
    progress     double precision check (progress between 0 and 1),
    request_id   text,
    created_at   timestamptz not null,
    deadline     timestamptz not null,
    finished_at  timestamptz,
    check ((status in ('queued', 'running')) = (finished_at is null))
);
create unique index jobs_seq on membridge.jobs (seq);
create index jobs_by_project on membridge.jobs (canonical_id, seq);
create index jobs_queued on membridge.jobs (agent, seq) where status = 'queued';
create index jobs_unfinished on membridge.jobs (deadline) where finished_at is null;

create table membridge.audit_log (
    id          bigint generated always as identity primary key,
    at          timestamptz not null,
    action      text not null,
    entity_type text not null,
    entity_id   text not null,
    actor       text not null,
    detail      json not null default '{}'
);
create index audit_log_by_entity on membridge.audit_log (entity_id, id);
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("drop schema membridge cascade")
