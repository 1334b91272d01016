-- What an administrator wants to know of the database.

-- name: state
-- Version, size of the whole database in bytes, connections to it by whomever, and how many the server takes.
select current_setting('server_version') as version, pg_database_size(current_database()) as size_bytes,
       (select version_num from bloom.alembic_version) as revision,
       (select count(*) from pg_stat_activity where datname = current_database()) as connections,
       current_setting('max_connections')::int as max_connections;
