"""The first schema: workers, tasks, leases, events, results, artifacts, keys, audit."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UPGRADE = """
create table bloom.workers (
    id              text primary key check (id <> ''),
    node_id         text,
    url             text,
    status          text not null check (status in ('online', 'offline', 'syncing', 'error', 'unknown')),
    draining        boolean not null default false,
    claims          boolean not null default false,   -- has used the worker plane: silence means offline
    claude_cli      boolean not null default true,
    max_concurrency integer not null default 1 check (max_concurrency between 1 and 32),
    labels          text[] not null default '{}',
    ip_addrs        text[] not null default '{}',
    obs_count       integer,
    db_sha          text,
    agent_version   text,
    os_info         text,
    install_method  text,
    registered_at   timestamptz not null default now(),
    last_heartbeat  timestamptz,
    board           json,                             -- what it last told of its machine
    polling_until   timestamptz                       -- a claim of this worker waits for a task until then
);
create index workers_seen on bloom.workers (last_heartbeat) where claims and status <> 'offline';

create table bloom.tasks (
    id                  text primary key check (id <> ''),
    seq                 bigint generated always as identity,
    context_id          text not null,
    agent_slug          text not null,
    prompt              text not null,
    context_hints       json not null default '[]',
    timeout_sec         integer not null check (timeout_sec between 1 and 3600),
    budget              double precision not null check (budget >= 0),
    desired_format      text not null check (desired_format in ('json', 'text')),
    status              text not null
        check (status in ('queued', 'leased', 'running', 'completed', 'failed', 'dead', 'cancelled')),
    priority            integer not null default 0,
    run_at              timestamptz,
    due                 boolean not null default true, -- false while run_at lies ahead
    labels              text[] not null default '{}',
    concurrency_key     text,
    retry_base_sec      double precision not null default 2 check (retry_base_sec >= 0),
    retry_max_sec       double precision not null default 300 check (retry_max_sec >= 0),
    attempts            integer not null default 0 check (attempts >= 0),
    max_attempts        integer not null default 3 check (max_attempts between 1 and 10),
    worker_deaths       integer not null default 0,    -- that have cost it no attempt
    lease_id            text,
    worker_id           text,
    cancel_requested_at timestamptz,
    created_at          timestamptz not null default now(),
    updated_at          timestamptz not null default now(),
    check ((status in ('leased', 'running')) <= (lease_id is not null and worker_id is not null)),
    check ((status = 'queued') <= (lease_id is null and cancel_requested_at is null)),
    check (due or run_at is not null)
);
create unique index tasks_seq on bloom.tasks (seq);
create index tasks_by_status on bloom.tasks (status, seq);
create index tasks_claimable on bloom.tasks (priority desc, seq) where status = 'queued' and due;
create index tasks_not_due on bloom.tasks (run_at) where status = 'queued' and not due;
create index tasks_by_concurrency_key on bloom.tasks (concurrency_key, seq)
    where concurrency_key is not null and status in ('queued', 'leased', 'running');
create unique index tasks_one_held_per_concurrency_key on bloom.tasks (concurrency_key)
    where concurrency_key is not null and status in ('leased', 'running');

create table bloom.idempotency_keys (
    scope      text not null,                          -- the key of the caller
    key        text not null,
    task_id    text not null references bloom.tasks (id) on delete cascade,
    digest     bytea not null,
    created_at timestamptz not null default now(),
    primary key (scope, key)
);
create index idempotency_keys_by_task on bloom.idempotency_keys (task_id);

create table bloom.leases (
    id             text primary key check (id <> ''),
    seq            bigint generated always as identity,
    task_id        text not null references bloom.tasks (id) on delete cascade,
    worker_id      text not null,
    context_id     text not null,
    status         text not null check (status in ('active', 'released', 'expired', 'failed')),
    request_id     text,                               -- of the claim that it answered
    started_at     timestamptz not null default now(),
    expires_at     timestamptz not null,
    ttl_seconds    integer not null check (ttl_seconds between 1 and 86400),
    last_heartbeat timestamptz,
    ended_at       timestamptz,
    check ((status = 'active') = (ended_at is null))
);
create unique index leases_seq on bloom.leases (seq);
create index leases_by_status on bloom.leases (status, seq);
create unique index leases_one_active_per_task on bloom.leases (task_id) where status = 'active';
create index leases_by_task on bloom.leases (task_id);
create index leases_active_by_worker on bloom.leases (worker_id) where status = 'active';
create index leases_active_by_expiry on bloom.leases (expires_at) where status = 'active';
create index leases_by_request on bloom.leases (worker_id, request_id) where request_id is not null;
create index leases_by_context on bloom.leases (context_id, seq);

create table bloom.task_events (
    task_id  text not null references bloom.tasks (id) on delete cascade,
    id       bigint not null,                          -- counts the events of the task from 1
    lease_id text not null,
    seq      bigint not null,                          -- counts the events of the lease, given by the worker
    at       timestamptz not null default now(),
    type     text not null,
    data     json not null,
    primary key (task_id, id)
);
create unique index task_events_by_lease on bloom.task_events (lease_id, seq);

create table bloom.artifacts (
    id             text primary key check (id <> ''),
    seq            bigint generated always as identity,
    task_id        text not null references bloom.tasks (id) on delete cascade,
    job_id         text not null,
    type           text not null,
    tags           text[] not null default '{}',
    entity_refs    json not null default '[]',
    content_type   text not null,
    size_bytes     bigint not null check (size_bytes >= 0),
    sha256         text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    place          text not null check (place in ('inline', 'chunks', 'store')),
    content        text,
    object_key     text,
    url            text,
    moves_to_store boolean not null default false,     -- the store was down when it was made
    finalized      boolean not null default true,
    created_at     timestamptz not null default now(),
    check ((place = 'inline') = (content is not null)),
    check ((place = 'store') = (url is not null))
);
create unique index artifacts_seq on bloom.artifacts (seq);
create index artifacts_by_task on bloom.artifacts (task_id, seq);
create index artifacts_to_move on bloom.artifacts (seq) where moves_to_store;

create table bloom.uploads (                           -- large outputs, on their way or kept
    id         text primary key check (id <> ''),      -- of the artifact that it becomes: `output_ref`
    task_id    text not null references bloom.tasks (id) on delete cascade,
    lease_id   text unique references bloom.leases (id) on delete cascade,
    received   bigint not null default 0 check (received >= 0),
    chunks     integer not null default 0 check (chunks >= 0),
    unfinished bytea not null default '' check (length(unfinished) < 4), -- the beginning of a cut UTF-8 character
    sha256     text check (sha256 ~ '^[0-9a-f]{64}$'), -- of all that was received, where it is known
    kept       boolean not null default false,         -- it is the content of an artifact
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check (kept or lease_id is not null)
);
create index uploads_by_task on bloom.uploads (task_id);
create index uploads_by_age on bloom.uploads (updated_at) where not kept;

create table bloom.upload_chunks (
    upload_id text not null references bloom.uploads (id) on delete cascade,
    n         integer not null,                        -- counts the pieces from 0
    data      bytea not null,
    primary key (upload_id, n)
);
alter table bloom.upload_chunks alter column data set storage external;

create table bloom.results (
    id            text primary key check (id <> ''),
    task_id       text not null references bloom.tasks (id) on delete cascade,
    lease_id      text not null unique references bloom.leases (id) on delete cascade,
    worker_id     text not null,
    artifact_id   text references bloom.artifacts (id),
    status        text not null check (status in ('success', 'error')),
    output        text,                                -- null where the artifact carries it inline
    output_cut    boolean not null default false,
    error_message text,
    code          text,
    metrics       json not null,
    digest        bytea not null,                      -- of the report, to know its repetition
    completed_at  timestamptz not null default now()
);
create index results_by_task on bloom.results (task_id);

create table bloom.rejected_results (                  -- of leases that were lost before their report came
    id            text primary key check (id <> ''),
    task_id       text not null references bloom.tasks (id) on delete cascade,
    lease_id      text not null unique references bloom.leases (id) on delete cascade,
    worker_id     text not null,
    status        text not null check (status in ('success', 'error')),
    output        text,
    output_cut    boolean not null default false,
    error_message text,
    code          text,
    metrics       json not null,
    reason        text not null,                       -- how the lease had ended
    rejected_at   timestamptz not null default now()
);
create index rejected_results_by_task on bloom.rejected_results (task_id, rejected_at);

create table bloom.keys (
    id           text primary key check (id <> ''),
    seq          bigint generated always as identity,
    name         text not null unique check (name <> ''), -- for ever: the audit log names keys by it
    role         text not null check (role in ('admin', 'submitter', 'worker', 'reader', 'join')),
    worker_name  text check (worker_name <> ''),       -- whom it speaks for, or lets join
    starts_with  text not null,                        -- enough to recognise it, too little to guess the rest
    digest       bytea not null unique check (octet_length(digest) = 32), -- SHA-256 of the key, which is kept nowhere
    created_at   timestamptz not null default now(),
    created_by   text not null,
    expires_at   timestamptz,
    last_used_at timestamptz,
    used_up_at   timestamptz,                          -- when a worker joined with it
    revoked_at   timestamptz,
    check (role <> 'worker' or worker_name is not null),
    check (worker_name is null or role in ('worker', 'join')),
    check (role <> 'join' or expires_at is not null),
    check (used_up_at is null or role = 'join')
);
create unique index keys_seq on bloom.keys (seq);
create index keys_by_worker_name on bloom.keys (worker_name) where role = 'worker';

create table bloom.audit_log (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default now(),
    tx          xid8 not null default pg_current_xact_id(),
    action      text not null,
    entity_type text not null,
    entity_id   text not null,
    actor       text not null,
    detail      json not null default '{}'
);
create unique index audit_log_by_commit_order on bloom.audit_log (tx, id);
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("drop schema bloom cascade")
