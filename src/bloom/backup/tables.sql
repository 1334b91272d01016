-- Whole tables, out of one database and into another. Names come quoted from the catalogue, and stand in the places of the
-- comments.

-- name: begin
-- All that follows in this transaction sees the same moment, and changes nothing.
set transaction isolation level repeatable read, read only;

-- name: hold_objects
-- Until the end of this transaction nobody deletes the objects of pruned tasks: see pruned in artifacts/queries.sql.
select pg_advisory_xact_lock_shared(%(lock)s);

-- name: revision
-- The revision of the schema.
select version_num from bloom.alembic_version;

-- name: tables
-- The tables of both schemas, with their columns.
select format('%%I.%%I', n.nspname, c.relname) as name,
       array_agg(quote_ident(a.attname) order by a.attnum) as columns
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
where n.nspname in ('bloom', 'membridge') and c.relkind in ('r', 'p') and not c.relispartition
  and c.relname <> 'alembic_version'
group by n.nspname, c.relname order by n.nspname, c.relname;

-- name: sequences
-- How far the identities of both schemas have counted.
select format('%%I.%%I', schemaname, sequencename) as name, last_value as value
from pg_sequences where schemaname in ('bloom', 'membridge') and last_value is not null order by 1;

-- name: objects
-- What artifacts have in the object store.
select object_key as key, size_bytes as size, sha256 from bloom.artifacts where place = 'store' order by seq;

-- name: copy_out
-- All rows of a table.
copy /* table */ (/* columns */) to stdout;

-- name: copy_in
-- The same, the other way; an identity takes what is given.
copy /* table */ (/* columns */) from stdin;

-- name: clear
-- What a migration has put into a new table.
delete from /* table */ where true;

-- name: has_rows
-- Whether there is a row.
select exists (select from /* table */) as found;

-- name: advance
-- An identity goes on behind what it had counted.
select setval(%(name)s::regclass, %(value)s);

-- name: foreign_keys
-- The references between the tables, as they are to be made again.
select format('%%I.%%I', n.nspname, c.relname) as name, quote_ident(k.conname) as constraint,
       pg_get_constraintdef(k.oid) as definition
from pg_constraint k join pg_class c on c.oid = k.conrelid join pg_namespace n on n.oid = c.relnamespace
where k.contype = 'f' and n.nspname in ('bloom', 'membridge') order by 1, 2;

-- name: drop_reference
-- Rows then come in any order.
alter table /* table */ drop constraint /* constraint */;

-- name: make_reference
-- Checks all rows.
alter table /* table */ add constraint /* constraint */ /* definition */;

-- name: exists
-- Whether there is a table.
select to_regclass(%(name)s) is not null as found;

-- name: drop_all
-- Nothing of ours is left.
drop schema if exists membridge cascade;
drop schema if exists bloom cascade;
create schema bloom;

-- name: point_to_store
-- The artifacts' objects are in this store.
update bloom.artifacts set url = %(prefix)s || object_key where place = 'store';
