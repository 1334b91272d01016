-- What a database is like.

-- name: condition
-- The version, settings and clock of the server, and what this user may do.
select current_setting('server_version') as version,
       current_setting('server_version_num')::int as version_number,
       pg_encoding_to_char(encoding) as encoding,
       current_setting('fsync') = 'on' as fsync,
       current_setting('full_page_writes') = 'on' as full_page_writes,
       current_setting('synchronous_commit') <> 'off' as synchronous_commit,
       pg_is_in_recovery() or current_setting('default_transaction_read_only') = 'on' as read_only,
       current_setting('max_connections')::int as max_connections,
       case when to_regnamespace('bloom') is null then has_database_privilege(current_database(), 'create')
            else has_schema_privilege('bloom', 'create') end as may_create,
       extract(epoch from clock_timestamp())::float8 as clock
from pg_database where datname = current_database();

-- name: state
-- Version, size of the whole database in bytes, connections to it by whomever, and how many the server takes.
select current_setting('server_version') as version, pg_database_size(current_database()) as size_bytes,
       (select version_num from bloom.alembic_version) as revision,
       (select count(*) from pg_stat_activity where datname = current_database()) as connections,
       current_setting('max_connections')::int as max_connections;
