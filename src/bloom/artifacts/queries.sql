-- Artifacts are written by the completion of a task; here they are read, and moved to the object store.

-- name: by_id
-- One artifact, its content whole.
select id, seq, task_id, job_id, type, tags, entity_refs, content_type, size_bytes, sha256, place, content, object_key,
       url, finalized, created_at
from bloom.artifacts where id = %(id)s;

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

-- name: insert_chunk
-- One piece of the content of a large artifact.
insert into bloom.artifact_chunks (artifact_id, n, data) values (%(artifact_id)s, %(n)s, %(data)s);

-- name: chunk
-- One piece of the content of a large artifact.
select data from bloom.artifact_chunks where artifact_id = %(artifact_id)s and n = %(n)s;

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
    delete from bloom.artifact_chunks c using moved m where c.artifact_id = m.id
)
select id from moved;
