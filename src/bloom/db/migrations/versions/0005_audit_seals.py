"""The audit log is append-only, sealed by a chain of hashes, exported and searched.

Nothing that the release before uses changes. Writers wait while the indexes are built.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE = """
create table bloom.audit_seals (                       -- each seals the entries that follow those of the seal before
    first_n   bigint primary key check (first_n > 0),  -- entries are counted from 1 in the order of the chain
    last_n    bigint not null generated always as (first_n + cardinality(ids) - 1) stored,
    last_tx   xid8 not null,                           -- of its last entry, as the next
    last_id   bigint not null,
    ids       bigint[] not null check (cardinality(ids) > 0),
    marks     bytea not null check (octet_length(marks) = 8 * cardinality(ids)), -- the first 8 bytes of each digest
    hash      bytea not null check (octet_length(hash) = 32), -- of the chain, after its last entry
    sealed_at timestamptz not null default now()
);

create table bloom.audit_exports (                     -- files in the object store
    first_n     bigint primary key,
    last_n      bigint not null check (last_n >= first_n),
    hash        bytea not null,                        -- of the chain, after its last entry
    object_key  text not null unique,
    planned_at  timestamptz not null default now(),
    exported_at timestamptz
);
create index audit_exports_unfinished on bloom.audit_exports (first_n) where exported_at is null;

create function bloom.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'bloom.% is append-only', tg_table_name using errcode = 'insufficient_privilege';
end $$;
create trigger append_only before update or delete or truncate on bloom.audit_log
    for each statement execute function bloom.refuse_change();
create trigger append_only before update or delete or truncate on bloom.audit_seals
    for each statement execute function bloom.refuse_change();
alter table bloom.audit_log enable always trigger append_only;
alter table bloom.audit_seals enable always trigger append_only;

-- An entry's place in the log is the number of its transaction, then its id. After a restore into a server that has counted
-- less transactions, these add how far the log is ahead of it (bloom.db.migrate.follow_the_log replaces two of them).
create function bloom.audit_ahead() returns bigint immutable language sql as 'select 0::bigint';
create function bloom.audit_tx() returns xid8 language sql as 'select pg_current_xact_id()';
create function bloom.audit_horizon() returns xid8 stable language sql as
    'select (pg_snapshot_xmin(pg_current_snapshot())::text::bigint + bloom.audit_ahead())::text::xid8';
alter table bloom.audit_log alter column tx set default bloom.audit_tx();

create index audit_log_by_entity on bloom.audit_log (entity_id);
-- For what is rare among these, and for spans of time. It costs writers nothing, unlike a B-tree for each.
create index audit_log_ranges on bloom.audit_log using brin
    (at, action text_bloom_ops, actor text_bloom_ops, entity_type text_bloom_ops) with (autosummarize = on);
"""

DOWNGRADE = """
drop index bloom.audit_log_by_entity, bloom.audit_log_ranges;
drop trigger append_only on bloom.audit_log;
alter table bloom.audit_log alter column tx set default pg_current_xact_id();
drop function bloom.audit_tx(), bloom.audit_horizon(), bloom.audit_ahead();
drop table bloom.audit_seals, bloom.audit_exports;
drop function bloom.refuse_change();
"""


def upgrade() -> None:
    op.execute(UPGRADE)


def downgrade() -> None:
    op.execute(DOWNGRADE)
