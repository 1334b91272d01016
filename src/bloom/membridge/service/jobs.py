"""Sync jobs: an agent fetches them over a connection of its own, or is called where it has a URL."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bloom.base.errors import BloomError, Conflict, NotFound, Upstream
from bloom.base.ids import new_job_id
from bloom.base.logging import request_id
from bloom.db.hub import Hub, notify
from bloom.db.pool import Database
from bloom.membridge.calling import AgentCaller
from bloom.membridge.model import Job, JobStatus, canonical_id_of
from bloom.membridge.schemas import ReportJob, SyncRequest
from bloom.membridge.service.refusals import agent_not_found, project_not_found
from bloom.membridge.store import agents, jobs, projects
from bloom.membridge.topics import agent_topic

ANSWER_WITHIN_SEC = 8.0
"""How long a request waits for an agent that is called: less than the 10 seconds after which the runtime gives up."""

LOOK_AGAIN_SEC = 5.0
"""The fallback for a lost notification."""

HOLD_SEC = 45.0
"""An agent that asks to wait for longer is answered then: it comes back at once, and never seems to be offline."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ordered:
    """A job that was made, and what to say of it."""

    job: Job
    ok: bool
    detail: str


class JobService:
    """Use cases of jobs. A job times out `timeout_sec` after it was made, or after its last sign of life."""

    def __init__(self, database: Database, hub: Hub, caller: AgentCaller, *, timeout_sec: float) -> None:
        self._database = database
        self._hub = hub
        self._caller = caller
        self._timeout_sec = timeout_sec
        self._calls: set[asyncio.Task[Job | Upstream]] = set()

    async def order(
        self, action: Literal["push", "pull"], wanted: SyncRequest, *, now: datetime | None = None
    ) -> Ordered:
        """Make a job for an agent, and call the agent if it has a URL and does not come by itself.

        Raises NotFound for an unknown project or agent, and Upstream: `agent_offline` when it can be reached in neither way,
        `agent_unreachable` when calling it failed at once (the job says so, too).
        """
        async with self._database.transaction() as connection:
            project = await projects.lock_named(connection, wanted.project)
            if project is None:
                raise project_not_found()
            agent = await agents.by_name(connection, wanted.agent, now=now)
            if agent is None:
                raise agent_not_found(wanted.agent)
            url = None if agent.polls else agent.url
            if url is None and not agent.online:
                raise Upstream(
                    f"The agent {agent.name!r} is offline and has no URL at which it could be called.",
                    code="agent_offline",
                )
            job = await jobs.insert(
                connection,
                new_job_id(),
                action=action,
                canonical_id=project.canonical_id,
                project=wanted.project if canonical_id_of(wanted.project) == project.canonical_id else project.name,
                agent=agent.name,
                dryrun=wanted.dryrun,
                status=JobStatus.QUEUED if url is None else JobStatus.RUNNING,
                request_id=request_id.get(),
                timeout_sec=self._timeout_sec,
                now=now,
            )
            if url is None:
                await notify(connection, [agent_topic(agent.name)])
        if url is None:
            return Ordered(job, True, f"Queued for the agent; GET /jobs/{job.id} tells how it goes")
        return await self._call(url, job)

    async def _call(self, url: str, job: Job) -> Ordered:
        calling = asyncio.create_task(self._call_and_note(url, job), name=f"call-{job.id}")
        self._calls.add(calling)
        calling.add_done_callback(self._calls.discard)
        done, _ = await asyncio.wait((calling,), timeout=ANSWER_WITHIN_SEC)
        if not done:
            return Ordered(job, True, f"Running at the agent; GET /jobs/{job.id} tells how it goes")
        ended = calling.result()
        if isinstance(ended, Upstream):
            raise ended
        return Ordered(ended, ended.status is JobStatus.DONE, ended.detail or str(ended.status))

    async def _call_and_note(self, url: str, job: Job) -> Job | Upstream:
        """The job as the agent's answer left it; why, when the agent could not be called."""
        failure: Upstream | None = None
        try:
            said = await self._caller.run(url, job, timeout_sec=self._timeout_sec)
        except Upstream as error:
            said = ReportJob(status="failed", detail=error.message)
            failure = Upstream(error.message, code=error.code, job_id=job.id)
        try:
            ended = await self.report(job.agent, job.id, said)
        except BloomError as error:
            _log.warning("the outcome of a call was not noted", extra={"job": job.id, "code": error.code})
            return failure or Upstream("The agent's answer came too late.", code="agent_unreachable", job_id=job.id)
        return failure or ended

    async def close(self) -> None:
        """End the calls under way; their jobs time out."""
        for call in tuple(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def take(self, name: str, wait_sec: float, *, now: datetime | None = None) -> Sequence[Job]:
        """The jobs that wait for the agent, each given out once; none came up within `wait_sec`: empty. Raises NotFound."""
        deadline = asyncio.get_running_loop().time() + min(wait_sec, HOLD_SEC)
        with self._hub.subscribe(agent_topic(name)) as news:
            first = True
            while True:
                async with self._database.transaction() as connection:
                    if first and not await agents.heard_from(connection, name, polls=True, now=now):
                        raise agent_not_found(name)
                    found = await jobs.hand_out(connection, name, now=now)
                first = False
                left = deadline - asyncio.get_running_loop().time()
                if found or left <= 0:
                    return found
                await news.wait(min(left, LOOK_AGAIN_SEC))

    async def report(self, name: str, job_id: str, said: ReportJob, *, now: datetime | None = None) -> Job:
        """Note what the agent says of its job. The same end told again is fine.

        Raises NotFound, and Conflict (`job_not_running`) when the job has ended otherwise, by its time-out for instance, or was
        never handed out.
        """
        async with self._database.transaction() as connection:
            await agents.heard_from(connection, name, polls=False, now=now)
            job = await jobs.report(connection, name, job_id, said, timeout_sec=self._timeout_sec, now=now)
            if job is None:
                job = await jobs.by_id(connection, job_id)
                if job is None or job.agent != name:
                    raise job_not_found()
                if job.status != said.status:
                    raise Conflict(f"This job is {job.status}.", code="job_not_running", status=job.status)
            return job

    async def time_out(self, *, now: datetime | None = None) -> int:
        """End the jobs whose deadline has passed; how many there were."""
        async with self._database.transaction() as connection:
            return await jobs.time_out(connection, now=now)

    async def by_id(self, job_id: str) -> Job:
        """One job. Raises NotFound."""
        async with self._database.transaction() as connection:
            job = await jobs.by_id(connection, job_id)
        if job is None:
            raise job_not_found()
        return job

    async def page(self, *, project: str | None, limit: int) -> list[Job]:
        """The newest jobs, of all projects or of the one of this name."""
        async with self._database.transaction() as connection:
            if project is None:
                return await jobs.page(connection, canonical_id=None, limit=limit)
            found = await projects.lock_named(connection, project)
            return [] if found is None else await jobs.page(connection, canonical_id=found.canonical_id, limit=limit)


def job_not_found() -> NotFound:
    """There is no such job."""
    return NotFound("There is no such job.", code="job_not_found")
