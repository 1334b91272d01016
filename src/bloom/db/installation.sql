-- What the processes of one installation must have in common.

-- name: claim_secret
-- Whoever comes first says whose secret it is. The mark that counts.
with claimed as (
    update bloom.installation set secret_mark = %(mark)s where secret_mark is null returning secret_mark
)
select secret_mark from claimed
union all
select secret_mark from bloom.installation where secret_mark is not null
limit 1;

-- name: forget_secret
-- The next runtime that starts says whose secret it is; what only the old one opens is deleted.
with forgotten as (
    update bloom.membridge_connection set admin_key = null, revision = revision + 1 where admin_key is not null returning 1
), claimable as (
    update bloom.installation set secret_mark = null where secret_mark is not null returning 1
)
select exists (select from claimable) as had_one, exists (select from forgotten) as had_key;
