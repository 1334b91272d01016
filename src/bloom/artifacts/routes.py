"""HTTP of artifacts."""

from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import StreamingResponse

from bloom.artifacts.model import Artifact
from bloom.artifacts.schemas import ArtifactUrl, RuntimeArtifact, artifact_fields
from bloom.artifacts.service import ArtifactService, artifact_not_found
from bloom.base.fields import StorableText
from bloom.base.ids import ArtifactId, TaskId
from bloom.web.answers import JsonAnswer
from bloom.web.openapi import Responses, conflict, streamed
from bloom.web.paging import DEFAULT_LIMIT, PageLimit
from bloom.web.parameters import Before, can_be_id, page_answer


async def _artifact_id(artifact_id: str) -> ArtifactId:
    if not can_be_id(artifact_id):
        raise artifact_not_found("(unreadable)")
    return ArtifactId(artifact_id)


async def content_answer(artifacts: ArtifactService, artifact: Artifact, *, ending: str = "") -> Response:
    """The content, streamed, as a file to be saved: the artifact's id and `ending`. Raises Upstream."""
    pieces = artifacts.content(artifact)
    # Taken before the answer begins, so that a store that is down is a 502 and not a cut connection.
    first = await anext(pieces, b"")

    async def body() -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces):
            yield first
            async for piece in pieces:
                yield piece

    headers = {
        "Content-Length": str(artifact.size_bytes),
        "Content-Disposition": f'attachment; filename="{artifact.id}{ending}"',
        "ETag": f'"{artifact.sha256}"',
        "Repr-Digest": f"sha-256=:{b64encode(bytes.fromhex(artifact.sha256)).decode()}:",
    }
    return StreamingResponse(body(), media_type=artifact.content_type, headers=headers)


_STORE_AWAY: Responses = {502: {"description": "The object store does not answer"}}
PathArtifactId = Annotated[ArtifactId, Depends(_artifact_id)]


def artifact_routes(artifacts: ArtifactService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(tags=["artifacts"])

    @router.get("/artifacts", response_model=list[RuntimeArtifact])
    async def page(
        request: Request,
        before: Before,
        task_id: StorableText | None = None,
        limit: PageLimit = DEFAULT_LIMIT,
    ) -> Response:
        """Artifacts, newest first, of one task if `task_id` names it."""
        wanted = None if task_id is None else TaskId(task_id)
        found = await artifacts.page(task_id=wanted, before=before, limit=limit + 1)
        shown = found[:limit]
        rows = [artifact_fields(artifact) for artifact in shown]
        return page_answer(request, rows, more=len(found) > limit, last=shown[-1].seq if shown else None)

    @router.get("/artifacts/{artifact_id}", response_model=RuntimeArtifact)
    async def get(artifact_id: PathArtifactId) -> Response:
        """One artifact, its content whole unless it is in the object store or over 1 MiB."""
        return JsonAnswer(artifact_fields(await artifacts.get(artifact_id)))

    @router.get(
        "/artifacts/{artifact_id}/content",
        response_class=Response,
        responses={**streamed("*/*", "Hello."), **conflict("Its object store is not configured here"), **_STORE_AWAY},
    )
    async def content(artifact_id: PathArtifactId) -> Response:
        """The content, streamed."""
        return await content_answer(artifacts, await artifacts.get(artifact_id))

    @router.get(
        "/artifacts/{artifact_id}/url",
        response_model=ArtifactUrl,
        responses={**conflict("It is in no object store that can sign links"), **_STORE_AWAY},
    )
    async def url(artifact_id: PathArtifactId) -> Response:
        """A link to the content that needs no key, for an hour."""
        link, expires_at = await artifacts.presigned(artifact_id)
        return JsonAnswer({"url": link, "expires_at": expires_at})

    return router
