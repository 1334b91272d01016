"""All pages, from the services that the API uses too."""

from dataclasses import dataclass

from fastapi import APIRouter, Response

from bloom.base.errors import NotFound
from bloom.tasks.service.activity import ActivityService
from bloom.tasks.service.tasks import TaskService
from bloom.ui.assets import assets
from bloom.ui.overview import overview_routes
from bloom.ui.pages import Pages
from bloom.ui.sign_in import sign_in_routes
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
    workers: WorkerService
    connections: ConnectionService


def ui_routes(pages: Pages, services: Services, keys: KeyRing | None, attempts: SignInAttempts) -> APIRouter:
    """The router at the root. `keys` None: development mode."""
    router = APIRouter(include_in_schema=False)
    router.include_router(sign_in_routes(pages, keys, attempts))
    router.include_router(
        overview_routes(pages, services.tasks, services.activity, services.workers, services.connections.health)
    )

    @router.get("/static/{name}")
    async def static(name: str) -> Response:
        if (asset := assets().get(name)) is None:
            raise NotFound("There is no such file.", code="not_found")
        return Response(asset.content, media_type=asset.media_type, headers={"Cache-Control": _A_YEAR})

    return router
