"""The overview: what the fleet is doing, in ten seconds."""

from typing import Any

from fastapi import APIRouter
from starlette.datastructures import QueryParams

from bloom.tasks.service.tasks import TaskService
from bloom.ui.pages import Pages, Viewer
from bloom.workers.schemas import Board
from bloom.workers.service import WorkerService

RECENT = 10


def overview_routes(pages: Pages, tasks: TaskService, workers: WorkerService) -> APIRouter:
    """The router at the root."""
    router = APIRouter(include_in_schema=False)

    async def load(query: QueryParams, viewer: Viewer) -> dict[str, Any]:
        return {
            "stats": await tasks.stats(),
            "workers": await workers.all(),
            "tasks": await tasks.page(status=None, before=None, limit=RECENT),
            "board_of": Board.model_validate,
        }

    pages.live_page(router, "/", "overview", load)
    return router
