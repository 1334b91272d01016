"""Uploading a large output before the completion that names it."""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from bloom.base.fields import StorableText
from bloom.base.ids import LeaseId
from bloom.tasks.routes.parameters import PathTaskId
from bloom.tasks.schemas import UploadAnswer
from bloom.tasks.service.holding import HoldingService
from bloom.tasks.service.uploading import Received, UploadCall, UploadService
from bloom.web.answers import JsonAnswer
from bloom.web.openapi import conflict
from bloom.web.parameters import Caller

_PATH = re.compile(r"/api/runtime/llm-tasks/[^/]+/output")

LeaseQuery = Annotated[StorableText, Query(min_length=1, max_length=512)]


def is_upload(method: str, path: str) -> bool:
    """Whether the body of a request is an output: it has no limit but that of outputs, and is never whole in memory."""
    return method == "PUT" and _PATH.fullmatch(path) is not None


def output_routes(uploads: UploadService, holding: HoldingService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(tags=["work"])

    @router.put(
        "/llm-tasks/{task_id}/output",
        response_model=UploadAnswer,
        responses={
            **conflict("The lease was lost, or the offset is not where the upload stands"),
            413: {"description": "The output is over the limit of outputs"},
        },
        openapi_extra={
            "requestBody": {
                "content": {"application/octet-stream": {"schema": {"type": "string"}, "example": "Hello."}}
            }
        },
    )
    async def upload(
        request: Request,
        task_id: PathTaskId,
        caller: Caller,
        lease_id: LeaseQuery,
        offset: Annotated[int, Query(ge=0, le=2**53)],
        restart: bool = False,
    ) -> Response:
        """Append the body (UTF-8 text) to the output of a lease, at `offset`: what was received so far. An empty body asks
        whether that is so. `restart` forgets what was received. The completion names it by `output_ref`.
        """
        announced = request.headers.get("content-length", "")
        call = UploadCall(
            task_id,
            LeaseId(lease_id),
            offset,
            restart=restart,
            announced=int(announced[:20]) if announced.isascii() and announced.isdigit() else None,
            worker_id=caller.worker_id,
        )
        async with holding.hidden_from_strangers(task_id, caller.worker_id):
            return _answer(await uploads.receive(call, request.stream()))

    @router.get("/llm-tasks/{task_id}/output", response_model=UploadAnswer)
    async def look(task_id: PathTaskId, lease_id: LeaseQuery) -> Response:
        """How much of the output of a lease was received; also in the header `Upload-Offset`."""
        return _answer(await uploads.look(task_id, LeaseId(lease_id)))

    router.add_api_route("/llm-tasks/{task_id}/output", look, methods=["HEAD"], include_in_schema=False)
    return router


def _answer(received: Received) -> Response:
    fields = {"output_ref": received.output_ref, "received": received.received, "cancel": received.cancel}
    return JsonAnswer(fields, headers={"Upload-Offset": str(received.received)})
