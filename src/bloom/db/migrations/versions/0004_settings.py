"""The connection to Membridge: what was saved for it, and which workers are known from there alone."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UPGRADE = """
create table bloom.membridge_connection (              -- one row
    id           boolean primary key default true check (id),
    url          text,                                 -- null: that of the environment, or the default
    admin_key    bytea,                                -- sealed, for the origin of `url`
    revision     bigint not null default 0,            -- counts what was saved
    tested_at    timestamptz,
    next_sync_at timestamptz not null default now(),   -- whichever replica comes first then, asks
    failures     integer not null default 0,           -- in a row, of asking
    last_success timestamptz,
    last_error   text,
    check (admin_key is null or url is not null)
);
insert into bloom.membridge_connection default values;

alter table bloom.workers add column from_membridge boolean not null default false; -- known from its list alone
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("alter table bloom.workers drop column from_membridge; drop table bloom.membridge_connection")
