-- Reads of the predecessor's tables. Rows come as JSON: whichever columns there are, and of whatever types.

-- name: begin
-- All reads see the same moment, and change nothing.
set transaction isolation level repeatable read, read only;

-- name: columns
-- The columns of its tables that are there.
select table_name as name, array_agg(column_name::text) as columns from information_schema.columns
where table_schema = 'public' and table_name = any(%(names)s) group by table_name;

-- name: tasks
-- All tasks, oldest first: by created_at, or by id where there is none.
select to_json(t) as row from public.llm_tasks t order by /* order */ nulls first, t.id;

-- name: all
-- All rows of a small table.
select to_json(t) as row from public./* table */ t order by to_jsonb(t) ->> 'id';

-- name: of_tasks
-- The rows of a table that belong to these tasks.
select to_json(t) as row from public./* table */ t where t.task_id = any(%(ids)s);

-- name: orphans
-- Rows that belong to no task: how many, and the first of them.
select count(*) as count, array(
    select t.id from public./* table */ t
    where not exists (select from public.llm_tasks k where k.id = t.task_id) order by t.id limit %(shown)s) as ids
from public./* table */ t where not exists (select from public.llm_tasks k where k.id = t.task_id);

-- name: stores
-- The buckets that its artifacts are in, and how many are in each.
select substring(to_jsonb(a) ->> 'url' from '^minio://([^/]+)/') as bucket, count(*) as count
from public.runtime_artifacts a
where to_jsonb(a) ->> 'url' like 'minio://%%' and to_jsonb(a) ->> 'content' is null
group by 1;
