-- The pushed snapshots of projects. What changes the current one is run under the lock of its project.

-- name: page
-- The newest versions of a project.
select version.*, version.sha256 is not distinct from project.current_sha256 as current
from membridge.versions version
join membridge.projects project using (canonical_id)
where canonical_id = %(canonical_id)s
order by version.seq desc
limit %(limit)s;

-- name: by_sha
-- One version.
select version.*, version.sha256 is not distinct from project.current_sha256 as current
from membridge.versions version
join membridge.projects project using (canonical_id)
where canonical_id = %(canonical_id)s and version.sha256 = %(sha256)s;

-- name: upsert
-- A pushed version. The same content pushed again, after others were current, counts as new.
insert into membridge.versions (canonical_id, sha256, epoch, key, db_size, counts, node_id, based_on, created_at)
values (%(canonical_id)s, %(sha256)s, %(epoch)s, %(key)s, %(db_size)s, %(counts)s, %(node_id)s, %(based_on)s, %(now)s)
on conflict (canonical_id, sha256) do update set
    seq = default,
    epoch = excluded.epoch,
    key = excluded.key,
    db_size = excluded.db_size,
    counts = excluded.counts,
    node_id = excluded.node_id,
    based_on = excluded.based_on,
    created_at = excluded.created_at;

-- name: set_current
-- The pointer moves.
update membridge.projects set current_sha256 = %(sha256)s where canonical_id = %(canonical_id)s;

-- name: delete
-- A version goes, unless it is the current one.
delete from membridge.versions version
using membridge.projects project
where version.canonical_id = %(canonical_id)s and version.sha256 = %(sha256)s
    and project.canonical_id = version.canonical_id and project.current_sha256 is distinct from version.sha256;
