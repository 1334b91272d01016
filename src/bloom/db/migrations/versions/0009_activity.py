"""What happened in each minute, for the charts of the overview; folded from the audit log from now on."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

UPGRADE = """
create table bloom.activity (
    minute     timestamptz primary key,
    created    integer not null default 0,
    started    integer not null default 0,             -- leases granted
    completed  integer not null default 0,
    failed     integer not null default 0,             -- dead ones, too
    waits      integer not null default 0,             -- first leases of tasks
    wait_sec   double precision not null default 0,    -- their waiting, summed
    tokens     bigint not null default 0,
    cost_usd   double precision not null default 0
);
create table bloom.activity_position (                 -- one row: how far the audit log is folded
    id    boolean primary key default true check (id),
    tx    xid8 not null,
    entry bigint not null
);
insert into bloom.activity_position (tx, entry) values (pg_snapshot_xmin(pg_current_snapshot()), 0);
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("drop table bloom.activity_position; drop table bloom.activity")
