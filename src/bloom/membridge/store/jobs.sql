-- Sync jobs. Each statement guards the status that it changes.

-- name: insert
-- A new job.
insert into membridge.jobs (
    id, action, canonical_id, project, agent, dryrun, status, request_id, created_at, deadline
)
values (
    %(id)s, %(action)s, %(canonical_id)s, %(project)s, %(agent)s, %(dryrun)s, %(status)s, %(request_id)s,
    coalesce(%(now)s, now()), coalesce(%(now)s, now()) + make_interval(secs => %(timeout_sec)s)
)
returning *;

-- name: hand_out
-- The queued jobs of an agent become its own: each is handed out once.
update membridge.jobs set status = 'running'
where id in (
    select id from membridge.jobs
    where agent = %(agent)s and status = 'queued' and deadline > coalesce(%(now)s, now())
    order by seq
    for update skip locked
)
returning *;

-- name: report
-- What the agent says of a job that it runs. Each sign of life moves the deadline on.
update membridge.jobs set
    status = %(status)s,
    detail = coalesce(%(detail)s, detail),
    stdout = coalesce(%(stdout)s, stdout),
    stderr = coalesce(%(stderr)s, stderr),
    returncode = coalesce(%(returncode)s, returncode),
    progress = coalesce(%(progress)s, progress),
    deadline = case when %(status)s = 'running' then coalesce(%(now)s, now()) + make_interval(secs => %(timeout_sec)s)
        else deadline end,
    finished_at = case when %(status)s = 'running' then null else coalesce(%(now)s, now()) end
where id = %(id)s and agent = %(agent)s and status = 'running'
returning *;

-- name: time_out
-- Jobs that nobody took, or whose agent fell silent, by their deadline.
update membridge.jobs set
    finished_at = coalesce(%(now)s, now()),
    status = 'timed_out',
    detail = case when status = 'queued' then 'The agent did not come for it in time' else 'The agent did not report in time' end
where id in (
    select id from membridge.jobs
    where finished_at is null and deadline <= coalesce(%(now)s, now())
    order by deadline
    limit 500
    for update skip locked
)
returning id;

-- name: fail_of_agent
-- The jobs of an agent that is deleted.
update membridge.jobs set status = 'failed', detail = 'The agent was removed', finished_at = coalesce(%(now)s, now())
where id in (select id from membridge.jobs where agent = %(agent)s and finished_at is null order by seq for update);

-- name: by_id
-- One job.
select * from membridge.jobs where id = %(id)s;

-- name: page
-- The newest jobs, of all projects or of one.
select * from membridge.jobs
where %(canonical_id)s::text is null or canonical_id = %(canonical_id)s
order by seq desc
limit %(limit)s;
