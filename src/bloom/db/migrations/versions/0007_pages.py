"""What the pages need: the mark of the secret that all replicas share."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UPGRADE = """
create table bloom.installation (                      -- one row
    id          boolean primary key default true check (id),
    secret_mark bytea                                  -- by which a replica knows whether its secret is that of the others
);
insert into bloom.installation default values;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("drop table bloom.installation")
