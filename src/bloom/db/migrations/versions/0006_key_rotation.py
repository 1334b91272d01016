"""Keys get a new secret while the one before stays valid for a while."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UPGRADE = """
alter table bloom.keys
    add column rotated_at      timestamptz,              -- since when `digest` is what it is; null: since it was made
    add column previous_digest bytea check (octet_length(previous_digest) = 32),
    add column previous_until  timestamptz,              -- so long the secret before the last rotation is taken
    add check ((previous_digest is null) = (previous_until is null));
create unique index keys_by_previous_digest on bloom.keys (previous_digest) where previous_digest is not null;
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute("alter table bloom.keys drop column previous_until, drop column previous_digest, drop column rotated_at")
