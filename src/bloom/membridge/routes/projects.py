"""Routes of projects, nodes, leadership and versions."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.responses import JSONResponse

from bloom.membridge.model import DEFAULT_LEASE_SECONDS
from bloom.membridge.routes.fields import (
    leadership_fields,
    node_fields,
    project_fields,
    standing_fields,
    version_fields,
)
from bloom.membridge.routes.parameters import PathCanonicalId, PathProjectName, PathSha256
from bloom.membridge.schemas import (
    HeartbeatAnswer,
    LeadershipFields,
    NewProject,
    NewVersion,
    NodeFields,
    NodeHeartbeat,
    ProjectFields,
    RestoreVersion,
    SelectAnswer,
    SelectPrimary,
    VersionFields,
)
from bloom.membridge.service.leadership import LeadershipService
from bloom.membridge.service.projects import ProjectService
from bloom.membridge.service.versions import VersionService
from bloom.web.bodies import StrictRoute
from bloom.web.openapi import conflict, repeated
from bloom.web.parameters import Caller

VersionLimit = Annotated[int, Query(ge=1, le=1000)]


def leadership_routes(leadership: LeadershipService) -> APIRouter:
    """Heartbeats, nodes, and who leads."""
    router = APIRouter(route_class=StrictRoute, tags=["leadership"])

    @router.post("/agent/heartbeat", response_model=HeartbeatAnswer)
    async def heartbeat(body: NodeHeartbeat) -> Response:
        """A node lives, and asks for leadership or renews it; the answer says what it is."""
        return JSONResponse(standing_fields(await leadership.heartbeat(body)))

    @router.get("/projects/{cid}/nodes", response_model=list[NodeFields])
    async def nodes(cid: PathCanonicalId) -> Response:
        """The nodes of a project, by id."""
        seen = await leadership.look(cid)
        return JSONResponse([node_fields(node, seen.project, seen.now) for node in seen.nodes])

    @router.get("/projects/{cid}/leadership", response_model=LeadershipFields)
    async def look(cid: PathCanonicalId) -> Response:
        """Who leads a project."""
        return JSONResponse(leadership_fields(await leadership.look(cid)))

    @router.post("/projects/{cid}/leadership/select", response_model=SelectAnswer)
    async def select(cid: PathCanonicalId, body: SelectPrimary, caller: Caller) -> Response:
        """Make a node the primary at once; it is preferred from then on."""
        seconds = body.lease_seconds or DEFAULT_LEASE_SECONDS
        project = await leadership.select(cid, body.primary_node_id, seconds, actor=caller.name)
        return JSONResponse(
            {
                "ok": True,
                "canonical_id": cid,
                "primary_node_id": body.primary_node_id,
                "lease_seconds": seconds,
                "detail": f"{body.primary_node_id} leads this project from now on, in epoch {project.epoch}",
                "epoch": project.epoch,
            }
        )

    return router


def version_routes(versions: VersionService) -> APIRouter:
    """The pushed snapshots of a project, and which is current."""
    router = APIRouter(route_class=StrictRoute, prefix="/projects/{cid}/versions", tags=["versions"])

    @router.get("", response_model=list[VersionFields])
    async def page(cid: PathCanonicalId, limit: VersionLimit = 100) -> Response:
        """The newest versions."""
        return JSONResponse([version_fields(version) for version in await versions.page(cid, limit=limit)])

    @router.get("/current", response_model=VersionFields)
    async def current(cid: PathCanonicalId) -> Response:
        """The current version; 404 `version_not_found` while nothing was pushed."""
        return JSONResponse(version_fields(await versions.current(cid)))

    @router.post(
        "",
        status_code=201,
        response_model=VersionFields,
        responses={
            **repeated(VersionFields, "It was the current version already"),
            **conflict("`stale_epoch`: the node does not lead; `remote_moved`: another version is current by now"),
        },
    )
    async def push(cid: PathCanonicalId, body: NewVersion) -> Response:
        """Make a stored snapshot the current version: 201, or 200 if it is already; 409 `stale_epoch` or `remote_moved`."""
        version, moved = await versions.push(cid, body)
        return JSONResponse(version_fields(version), status_code=201 if moved else 200)

    @router.post(
        "/{sha256}/restore",
        response_model=VersionFields,
        responses=conflict("`stale_epoch`: the node does not lead"),
    )
    async def restore(cid: PathCanonicalId, sha256: PathSha256, body: RestoreVersion) -> Response:
        """Make an old version the current one again; for the primary."""
        return JSONResponse(version_fields(await versions.restore(cid, sha256, node_id=body.node_id, epoch=body.epoch)))

    @router.delete("/{sha256}", status_code=204, responses=conflict("The version is the current one"))
    async def delete(cid: PathCanonicalId, sha256: PathSha256, caller: Caller) -> None:
        """Forget a version that was pruned; 409 for the current one."""
        await versions.delete(cid, sha256, actor=caller.name)

    return router


def project_routes(projects: ProjectService) -> APIRouter:
    """Projects themselves. To be added last: a project's name may have slashes in it."""
    router = APIRouter(route_class=StrictRoute, tags=["projects"])

    @router.get("/projects", response_model=list[ProjectFields])
    async def all_projects() -> Response:
        """Every project, by name."""
        return JSONResponse([project_fields(project) for project in await projects.all()])

    @router.post(
        "/projects",
        status_code=201,
        response_model=ProjectFields,
        responses=conflict("There is a project of this name"),
    )
    async def create(body: NewProject, caller: Caller) -> Response:
        """Make a project; 409 if there is one of this name."""
        return JSONResponse(project_fields(await projects.create(body.name, actor=caller.name)), status_code=201)

    @router.delete("/projects/{name:path}", status_code=204)
    async def delete(name: PathProjectName, caller: Caller) -> None:
        """Delete a project with its nodes, versions and jobs, by its name or id."""
        await projects.delete(name, actor=caller.name)

    return router
