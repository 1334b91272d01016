"""Artifacts: what tasks made, to read and to save."""

from fastapi import APIRouter, Request, Response

from bloom.artifacts.routes import PathArtifactId, content_answer
from bloom.artifacts.service import ArtifactService
from bloom.base.errors import Upstream
from bloom.base.ids import TaskId
from bloom.ui.listing import PAGE_ROWS, before_of, cursor_after, split
from bloom.ui.pages import Pages
from bloom.web.parameters import can_be_id

PREVIEW_BYTES = 64 * 1024
_ENDINGS = {"text/plain": ".txt", "application/json": ".json", "text/markdown": ".md", "text/html": ".html"}


def artifact_pages(pages: Pages, artifacts: ArtifactService) -> APIRouter:
    """The router at the root."""
    router = APIRouter(include_in_schema=False)

    @router.get("/artifacts")
    async def page(request: Request) -> Response:
        query = request.query_params
        task_id = query.get("task_id", "").strip()
        found, before = [], before_of(query)
        if can_be_id(task_id):
            wanted = TaskId(task_id) if task_id else None
            found = await artifacts.page(task_id=wanted, before=before, limit=PAGE_ROWS + 1, cut=0)
        shown, more = split(found)
        further = pages.url("/artifacts", task_id=task_id, cursor=cursor_after(shown[-1].seq)) if more else None
        return pages.page(request, "artifacts.html", artifacts=shown, task_id=task_id, next_url=further)

    @router.get("/artifacts/{artifact_id}")
    async def one(request: Request, artifact_id: PathArtifactId) -> Response:
        artifact = await artifacts.get(artifact_id)
        preview, away = None, False
        if _is_text(artifact.content_type):
            try:
                preview = await artifacts.beginning(artifact, most=PREVIEW_BYTES)
            except Upstream:
                away = True
        cut = preview is not None and artifact.size_bytes > PREVIEW_BYTES
        return pages.page(request, "artifact.html", artifact=artifact, preview=preview, cut=cut, away=away)

    @router.get("/artifacts/{artifact_id}/download")
    async def download(artifact_id: PathArtifactId) -> Response:
        artifact = await artifacts.get(artifact_id)
        kind = artifact.content_type.partition(";")[0].strip()
        return await content_answer(artifacts, artifact, ending=_ENDINGS.get(kind, ""))

    return router


def _is_text(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip()
    return kind.startswith("text/") or kind == "application/json" or kind.endswith("+json")
