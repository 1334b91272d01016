"""Where a task comes from: the id of the request that made it, and its place in a trace."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter table bloom.tasks add column request_id text, add column traceparent text")


def downgrade() -> None:
    op.execute("alter table bloom.tasks drop column request_id, drop column traceparent")
