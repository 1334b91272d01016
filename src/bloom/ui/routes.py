"""All pages, from the services that the API uses too."""

from dataclasses import dataclass

from fastapi import APIRouter, Response

from bloom.artifacts.service import ArtifactService
from bloom.audit.service import AuditService
from bloom.base.errors import NotFound
from bloom.db.pool import Database
from bloom.keys.service import KeyService
from bloom.tasks.service.activity import ActivityService
from bloom.tasks.service.following import FollowService
from bloom.tasks.service.holding import HoldingService
from bloom.tasks.service.removal import WorkerRemovalService
from bloom.tasks.service.tasks import TaskService
from bloom.ui.artifacts import artifact_pages
from bloom.ui.assets import assets
from bloom.ui.audit import audit_pages
from bloom.ui.leases import lease_pages
from bloom.ui.membridge import membridge_pages
from bloom.ui.new_task import new_task_routes
from bloom.ui.overview import overview_routes
from bloom.ui.pages import Pages
from bloom.ui.settings import settings_pages
from bloom.ui.sign_in import sign_in_routes
from bloom.ui.task import TaskServices, task_routes
from bloom.ui.tasks import task_list_routes
from bloom.ui.workers import worker_pages
from bloom.upstream.looking import MembridgeService
from bloom.upstream.service import ConnectionService
from bloom.web.auth import KeyRing
from bloom.web.sign_in import SignInAttempts
from bloom.workers.service import WorkerService

_A_YEAR = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Services:
    """What pages show and do comes from these."""

    tasks: TaskService
    activity: ActivityService
    following: FollowService
    artifacts: ArtifactService
    audit: AuditService
    activity: ActivityService
    workers: WorkerService
    removal: WorkerRemovalService
    holding: HoldingService
    keys: KeyService
    connections: ConnectionService
    membridge: MembridgeService
    database: Database


def ui_routes(pages: Pages, services: Services, keys: KeyRing | None, attempts: SignInAttempts) -> APIRouter:
    """The router at the root. `keys` None: development mode."""
    router = APIRouter(include_in_schema=False)
    router.include_router(sign_in_routes(pages, keys, attempts))
    router.include_router(
        overview_routes(pages, services.tasks, services.activity, services.workers, services.connections.health)
    )
    router.include_router(worker_pages(pages, services.workers, services.removal, services.holding, services.keys))
    router.include_router(artifact_pages(pages, services.artifacts))
    router.include_router(lease_pages(pages, services.holding))
    router.include_router(audit_pages(pages, services.audit))
    router.include_router(membridge_pages(pages, services.membridge))
    router.include_router(
        settings_pages(pages, services.connections, services.keys, services.artifacts, services.database)
    )
    router.include_router(task_list_routes(pages, services.tasks))
    router.include_router(new_task_routes(pages, services.tasks))
    router.include_router(
        task_routes(pages, TaskServices(services.tasks, services.following, services.artifacts, services.audit))
    )

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if (asset := assets().get(name)) is None:
            raise NotFound("There is no such file.", code="not_found")
        return Response(asset.content, media_type=asset.media_type, headers={"Cache-Control": _A_YEAR})

    return router
