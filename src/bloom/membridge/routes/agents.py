"""Routes of agents, their jobs, and the audit log."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import JSONResponse

from bloom.base.fields import StorableText
from bloom.membridge.routes.fields import agent_fields, audit_fields, command_fields, job_fields
from bloom.membridge.routes.parameters import PathAgentName, PathJobId
from bloom.membridge.schemas import (
    AgentFields,
    AwaitCommands,
    Commands,
    JobFields,
    MembridgeAuditFields,
    RegisterAgent,
    ReportJob,
    SyncAnswer,
    SyncRequest,
)
from bloom.membridge.service.jobs import JobService, Ordered
from bloom.membridge.service.projects import ProjectService
from bloom.web.bodies import StrictRoute
from bloom.web.disconnect import unless_gone
from bloom.web.openapi import Responses, conflict, repeated
from bloom.web.paging import DEFAULT_LIMIT, PageLimit
from bloom.web.parameters import Before, Caller, page_answer

JobLimit = Annotated[int, Query(ge=1, le=200)]
_ORDERED: Responses = {404: {}, 502: {"description": "The agent can be reached in no way"}}
NameFilter = Annotated[StorableText | None, Query(max_length=128)]


def agent_routes(projects: ProjectService, jobs: JobService) -> APIRouter:
    """Agents, and how they come by their jobs."""
    router = APIRouter(route_class=StrictRoute, prefix="/agents", tags=["agents"])

    @router.get("", response_model=list[AgentFields])
    async def all_agents() -> Response:
        """Every agent, by name."""
        return JSONResponse([agent_fields(agent) for agent in await projects.agents()])

    @router.post(
        "", status_code=201, response_model=AgentFields, responses=repeated(AgentFields, "There was one of this name")
    )
    async def register(body: RegisterAgent) -> Response:
        """Register or update an agent by its name: 201 new, 200 existing. What an update leaves out is kept."""
        agent, inserted = await projects.register_agent(body)
        return JSONResponse(agent_fields(agent), status_code=201 if inserted else 200)

    @router.delete("/{name}", status_code=204)
    async def delete(name: PathAgentName, caller: Caller) -> None:
        """Delete an agent; its unfinished jobs fail."""
        await projects.delete_agent(name, actor=caller.name)

    @router.post("/{name}/commands", response_model=Commands)
    async def commands(request: Request, name: PathAgentName, body: AwaitCommands | None = None) -> Response:
        """The agent's long poll: its jobs, each handed out once, as soon as there are any."""
        wait_sec = 0.0 if body is None else body.wait_sec
        taken = await unless_gone(request, jobs.take(name, wait_sec))
        return JSONResponse({"jobs": [command_fields(job) for job in taken or ()]})

    @router.post("/{name}/jobs/{job_id}/report", response_model=JobFields, responses=conflict("The job has ended"))
    async def report(name: PathAgentName, job_id: PathJobId, body: ReportJob) -> Response:
        """What the agent says of a job that it runs: that it goes on, or how it ended."""
        return JSONResponse(job_fields(await jobs.report(name, job_id, body)))

    return router


def job_routes(jobs: JobService) -> APIRouter:
    """Sync jobs, for those who order and watch them."""
    router = APIRouter(route_class=StrictRoute, tags=["jobs"])

    @router.post("/sync/push", response_model=SyncAnswer, responses=_ORDERED)
    async def push(body: SyncRequest) -> Response:
        """Let an agent push a project's memory; 502 when the agent can be reached in no way."""
        return JSONResponse(_answer(await jobs.order("push", body)))

    @router.post("/sync/pull", response_model=SyncAnswer, responses=_ORDERED)
    async def pull(body: SyncRequest) -> Response:
        """Let an agent pull a project's memory; 502 when the agent can be reached in no way."""
        return JSONResponse(_answer(await jobs.order("pull", body)))

    @router.get("/jobs", response_model=list[JobFields])
    async def page(limit: JobLimit = 50, project: NameFilter = None) -> Response:
        """The newest jobs, of all projects or of one."""
        return JSONResponse([job_fields(job) for job in await jobs.page(project=project, limit=limit)])

    @router.get("/jobs/{job_id}", response_model=JobFields)
    async def one(job_id: PathJobId) -> Response:
        """One job."""
        return JSONResponse(job_fields(await jobs.by_id(job_id)))

    return router


def audit_routes(projects: ProjectService) -> APIRouter:
    """Who did what."""
    router = APIRouter(tags=["audit"])

    @router.get("/audit", response_model=list[MembridgeAuditFields])
    async def page(
        request: Request, before: Before, limit: PageLimit = DEFAULT_LIMIT, entity_id: NameFilter = None
    ) -> Response:
        """Audit entries, newest first; `entity_id` is the canonical id of a project, or the name of an agent."""
        found = await projects.audit(entity_id=entity_id, before=before, limit=limit + 1)
        rows = [audit_fields(entry) for entry in found[:limit]]
        return page_answer(request, rows, more=len(found) > limit, last=found[:limit][-1].id if found else None)

    return router


def _answer(ordered: Ordered) -> dict[str, object]:
    job = ordered.job
    return {
        "ok": ordered.ok,
        "project": job.project,
        "agent": job.agent,
        "canonical_id": job.canonical_id,
        "detail": ordered.detail,
        "job_id": job.id,
    }
