-- Terms and leases of projects. Each statement is run under the lock of its project.

-- name: begin_term
-- A node leads from now on, for a new epoch. The primary key of `terms` lets no epoch begin twice.
with term as (
    insert into membridge.terms (canonical_id, epoch, node_id, reason, lease_seconds, issued_at, issued_by, expires_at)
    select canonical_id, epoch + 1, %(node_id)s, %(reason)s, %(lease_seconds)s, %(now)s, %(issued_by)s,
        %(now)s + make_interval(secs => %(lease_seconds)s)
    from membridge.projects
    where canonical_id = %(canonical_id)s
    returning *
)
update membridge.projects project set
    epoch = term.epoch,
    primary_node_id = term.node_id,
    preferred_primary = coalesce(%(preferred)s, preferred_primary),
    lease_seconds = term.lease_seconds,
    issued_at = term.issued_at,
    issued_by = term.issued_by,
    expires_at = term.expires_at,
    publish_due_at = %(now)s
from term
where project.canonical_id = term.canonical_id
returning project.*;

-- name: renew
-- The lease of the present term lasts longer, or is set to another length by a person. The bucket learns of a plain renewal
-- a little later, with the others that come until then.
update membridge.projects set
    lease_seconds = coalesce(%(lease_seconds)s, lease_seconds),
    preferred_primary = coalesce(%(preferred)s, preferred_primary),
    issued_at = %(now)s,
    issued_by = coalesce(%(issued_by)s, issued_by),
    expires_at = %(now)s + make_interval(secs => coalesce(%(lease_seconds)s, lease_seconds)),
    publish_due_at = case
        when %(lease_seconds)s is not null then %(now)s
        else coalesce(publish_due_at, %(now)s + make_interval(secs => least(60, lease_seconds / 4.0)))
    end
where canonical_id = %(canonical_id)s
returning *;

-- name: claim_publication
-- One lease that is to be written to the bucket and that no other process writes: it is this process's for `claim_sec`. A row
-- that a heartbeat holds is waited for, never skipped: where heartbeats are many, it would be held whenever one looks.
update membridge.projects set publishing_until = %(now)s + make_interval(secs => %(claim_sec)s)
where canonical_id = (
    select canonical_id from membridge.projects
    where publish_due_at <= %(now)s and coalesce(publishing_until <= %(now)s, true) and primary_node_id is not null
    order by publish_due_at
    limit 1
    for no key update
)
returning *;

-- name: unpublished_terms
-- The terms of a project whose copies are not in the bucket yet, oldest first.
select canonical_id, epoch, node_id, lease_seconds, issued_at, issued_by, expires_at
from membridge.terms
where canonical_id = %(canonical_id)s and published_at is null
order by epoch;

-- name: terms_published
-- These copies are in the bucket.
update membridge.terms set published_at = %(now)s
where canonical_id = %(canonical_id)s and epoch = any(%(epochs)s);

-- name: end_publication
-- The claim ends. What was written is still the truth: nothing is due. It was renewed meanwhile: due with the renewals to come.
-- It was changed: at once. Writing failed: after a pause.
update membridge.projects set
    publishing_until = null,
    publish_due_at = case
        when %(retry_sec)s::float8 is not null then %(now)s + make_interval(secs => %(retry_sec)s)
        when epoch = %(epoch)s and expires_at = %(expires_at)s then null
        when epoch = %(epoch)s and lease_seconds = %(lease_seconds)s
            then %(now)s + make_interval(secs => least(60, lease_seconds / 4.0))
        else %(now)s
    end
where canonical_id = %(canonical_id)s;
