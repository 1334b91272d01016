"""What keeps the cost flat: indexes of the claim, the turn of a concurrency key, counters, and what retention needs.

Nothing that the release before reads is taken away but two indexes: while both serve, the old one's claims are slower, not
wrong. Writers wait while the indexes are built.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UPGRADE = """
-- False while another task of its concurrency key goes first: it is not in the index that claims use.
alter table bloom.tasks add column turn boolean not null default true;

drop index bloom.tasks_claimable;
create index tasks_claimable on bloom.tasks (labels collate "C", priority desc, seq)
    where status = 'queued' and due and turn;
create index tasks_without_turn on bloom.tasks (concurrency_key, seq) where status = 'queued' and not turn;
create index tasks_fresh on bloom.tasks (greatest(updated_at, run_at)) where status = 'queued' and due;
create index tasks_final_by_age on bloom.tasks (updated_at, id)
    where status in ('completed', 'failed', 'dead', 'cancelled');

-- A renewal then changes no indexed column, and stays on its page (HOT). The reaper reads the active leases, which are few.
drop index bloom.leases_active_by_expiry;
create index results_by_artifact on bloom.results (artifact_id) where artifact_id is not null;

-- How many tasks are in each state, and how many leases there are: the sum of all rows. Each statement that changes this
-- appends what it changed, so nobody waits for anybody; maintenance folds the rows.
create table bloom.counts (
    queued     bigint not null default 0,
    leased     bigint not null default 0,
    running    bigint not null default 0,
    completed  bigint not null default 0,
    failed     bigint not null default 0,
    dead       bigint not null default 0,
    cancelled  bigint not null default 0,
    leases     bigint not null default 0,
    counted_at timestamptz                              -- of the row that was counted from the tables
);
insert into bloom.counts (queued, leased, running, completed, failed, dead, cancelled, leases)
select count(*) filter (where status = 'queued'), count(*) filter (where status = 'leased'),
       count(*) filter (where status = 'running'), count(*) filter (where status = 'completed'),
       count(*) filter (where status = 'failed'), count(*) filter (where status = 'dead'),
       count(*) filter (where status = 'cancelled'), (select count(*) from bloom.leases)
from bloom.tasks;

-- A fifth of a table that keeps what has finished is too long to wait: claims walk over the entries of claimed tasks.
alter table bloom.tasks set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000);
alter table bloom.leases set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000, fillfactor = 70);
alter table bloom.counts set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Of pruned tasks, until they are deleted from the object store.
create table bloom.pruned_objects (
    object_key text primary key,
    pruned_at  timestamptz not null default now()
);
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("""
        drop table bloom.pruned_objects, bloom.counts;
        alter table bloom.tasks reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold);
        alter table bloom.leases reset (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, fillfactor);
        drop index bloom.results_by_artifact;
        alter table bloom.tasks drop column turn;
        drop index bloom.tasks_fresh, bloom.tasks_final_by_age;
        create index tasks_claimable on bloom.tasks (priority desc, seq) where status = 'queued' and due;
        create index leases_active_by_expiry on bloom.leases (expires_at) where status = 'active';
    """)
