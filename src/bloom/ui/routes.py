"""The page at `/`: what the fleet is doing, readable without JavaScript."""

from datetime import UTC, datetime
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, PackageLoader, select_autoescape
from starlette.responses import HTMLResponse

from bloom import __version__
from bloom.tasks.service.tasks import TaskService
from bloom.web.auth import principal_of
from bloom.workers.schemas import Board
from bloom.workers.service import WorkerService

RECENT = 20


def _ago(moment: datetime) -> str:
    """How long ago `moment` was, in the largest fitting unit."""
    seconds = max(int((datetime.now(UTC) - moment).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def ui_routes(tasks: TaskService, workers: WorkerService) -> APIRouter:
    """The router at the root. Who shows no key where one is needed sees only that the runtime is there."""
    pages = Environment(loader=PackageLoader("bloom.ui"), autoescape=select_autoescape(default=True))
    pages.filters["ago"] = _ago
    pages.filters["board"] = Board.model_validate
    style = files("bloom.ui").joinpath("style.css").read_text(encoding="utf-8")
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def overview(request: Request) -> Response:
        if principal_of(request.scope) is None:
            return HTMLResponse(pages.get_template("closed.html").render(version=__version__))
        page = pages.get_template("overview.html").render(
            stats=await tasks.stats(),
            workers=await workers.all(),
            tasks=await tasks.page(status=None, before=None, limit=RECENT),
            version=__version__,
        )
        return HTMLResponse(page)

    @router.get("/style.css")
    async def stylesheet() -> Response:
        return Response(style, media_type="text/css", headers={"Cache-Control": "max-age=300"})

    return router
