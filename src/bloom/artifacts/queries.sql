-- Artifacts are written by the completion of a task; here they are read, and moved to the object store.

-- name: by_ids
-- These artifacts, their contents whole.
select id, seq, task_id, job_id, type, tags, entity_refs, content_type, size_bytes, sha256, place, content, object_key,
       url, finalized, created_at
from bloom.artifacts where id = any(%(ids)s);

-- name: page
-- One page of artifacts, newest first, contents cut to %(cut)s characters.
select id, seq, task_id, job_id, type, tags, entity_refs, content_type, size_bytes, sha256, place,
       left(content, %(cut)s) as content, object_key, url, finalized, created_at,
       coalesce(length(content) > %(cut)s, place = 'chunks') as truncated
from bloom.artifacts
where seq < coalesce(%(before)s, 9223372036854775807)
order by seq desc
limit %(limit)s;

-- name: page_of_task
-- The same for one task.
select id, seq, task_id, job_id, type, tags, entity_refs, content_type, size_bytes, sha256, place,
       left(content, %(cut)s) as content, object_key, url, finalized, created_at,
       coalesce(length(content) > %(cut)s, place = 'chunks') as truncated
from bloom.artifacts
where task_id = %(task_id)s and seq < coalesce(%(before)s, 9223372036854775807)
order by seq desc
limit %(limit)s;

-- name: keep_content
-- Room for the content of a large artifact that came with its completion.
insert into bloom.uploads (id, task_id, received, chunks, sha256, kept)
values (%(id)s, %(task_id)s, %(size_bytes)s, %(chunks)s, %(sha256)s, true);

-- name: insert_chunk
-- One piece of a large content.
insert into bloom.upload_chunks (upload_id, n, data) values (%(id)s, %(n)s, %(data)b);

-- name: chunk
-- One piece of a large content.
select data from bloom.upload_chunks where upload_id = %(id)s and n = %(n)s;

-- name: upload
-- How far an upload is.
select id, task_id, received, sha256, length(unfinished) = 0 as whole from bloom.uploads where id = %(id)s;

-- name: note_digest
-- The digest of what an upload had received, if that is still all.
update bloom.uploads set sha256 = %(sha256)s where id = %(id)s and received = %(received)s;

-- name: orphans
-- Objects of our tasks that no artifact knows. What belongs to no task of ours may be another installation's.
select o.key
from unnest(%(keys)s::text[], %(task_ids)s::text[], %(artifact_ids)s::text[]) as o(key, task_id, artifact_id)
where exists (select from bloom.tasks t where t.id = o.task_id)
  and not exists (select from bloom.artifacts a where a.id = o.artifact_id);

-- name: pruned
-- Objects of pruned tasks that are still to be deleted from the object store: none while a backup copies objects.
select object_key from bloom.pruned_objects
where (select pg_try_advisory_xact_lock(%(lock)s)) order by object_key limit %(limit)s;

-- name: forget_pruned
-- These are deleted from the store.
delete from bloom.pruned_objects where object_key = any(%(keys)s);

-- name: to_move
-- Artifacts that were made while the object store was down.
select id, seq, task_id, job_id, type, tags, entity_refs, content_type, size_bytes, sha256, place, content, object_key,
       url, finalized, created_at
from bloom.artifacts where moves_to_store order by seq limit %(limit)s;

-- name: moved
-- The content of this artifact is in the object store now; its result keeps the first %(cut)s characters.
with moved as (
    update bloom.artifacts a
    set place = 'store', content = null, object_key = %(object_key)s, url = %(url)s, moves_to_store = false
    from bloom.artifacts old
    where a.id = %(id)s and a.moves_to_store and old.id = a.id
    returning a.id, old.content
), kept as (
    update bloom.results r
    set output = left(m.content, %(cut)s), output_cut = length(m.content) > %(cut)s
    from moved m where r.artifact_id = m.id and r.output is null and m.content is not null
), cleared as (
    delete from bloom.uploads u using moved m where u.id = m.id
)
select id from moved;
