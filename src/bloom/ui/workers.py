"""Workers: which there are, what runs there, drain, resume, remove, and how to add one."""

import secrets
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from bloom.base.ids import WorkerId
from bloom.base.roles import Role
from bloom.client import is_loopback
from bloom.keys.schemas import CreateKey
from bloom.keys.service import KeyService
from bloom.tasks.model import LeaseStatus
from bloom.tasks.service.holding import HoldingService
from bloom.tasks.service.removal import WorkerRemovalService
from bloom.ui.pages import Pages, Viewer, text_of
from bloom.web.parameters import Caller, can_be_id
from bloom.workers.routes import PathWorkerId
from bloom.workers.schemas import Board
from bloom.workers.service import WorkerService, worker_not_found

_HELD = 200
"""So many leases are looked at for what runs where."""


def worker_pages(
    pages: Pages, workers: WorkerService, removal: WorkerRemovalService, holding: HoldingService, keys: KeyService
) -> APIRouter:
    """The router at the root."""
    router = APIRouter(include_in_schema=False)

    @router.get("/add-worker")
    async def adding(request: Request) -> Response:
        return _adding(request)

    @router.post("/add-worker")
    async def add(request: Request, caller: Caller) -> Response:
        sent = await pages.form(request)
        name = text_of(sent, "name").strip()
        try:
            # Whoever may join may be called anything that a worker may be.
            wanted = CreateKey(
                name=f"{name[:119] or 'join'}-{secrets.token_hex(4)}", role=Role.JOIN, worker_name=name or None
            )
            if "/" in name:
                raise ValueError
        except (ValidationError, ValueError):
            return _adding(request, name=name, problem=True, status=400)
        made = await keys.create(wanted, actor=caller.name)
        url = _address(request)
        return _adding(request, name=name, command=f"bloom worker join {url} {made.secret}", made=made.key)

    async def load(query: QueryParams, viewer: Viewer) -> dict[str, Any]:
        running: dict[WorkerId, list[str]] = {}
        for lease in await holding.page(status=LeaseStatus.ACTIVE, before=None, limit=_HELD):
            running.setdefault(lease.worker_id, []).append(lease.task_id)
        return {"workers": await workers.all(), "running": running, "board_of": Board.model_validate}

    async def load_one(query: QueryParams, viewer: Viewer) -> dict[str, Any]:
        if not can_be_id(worker_id := query["worker_id"]):
            raise worker_not_found("(unreadable)")
        worker, held = await removal.worker_with_work(WorkerId(worker_id))
        return {"worker": worker, "held": held, "board_of": Board.model_validate}

    pages.live_page(router, "/workers", "workers", load)
    pages.live_page(router, "/workers/{worker_id}", "worker", load_one)

    @router.post("/workers/{worker_id}/drain")
    async def drain(request: Request, worker_id: PathWorkerId, caller: Caller) -> Response:
        await pages.form(request)
        await workers.drain(worker_id, actor=caller.name)
        return pages.go(f"/workers/{quote(worker_id)}", notice="worker_drained")

    @router.post("/workers/{worker_id}/resume")
    async def resume(request: Request, worker_id: PathWorkerId, caller: Caller) -> Response:
        await pages.form(request)
        await workers.resume(worker_id, actor=caller.name)
        return pages.go(f"/workers/{quote(worker_id)}", notice="worker_resumed")

    @router.get("/workers/{worker_id}/remove")
    async def removing(request: Request, worker_id: PathWorkerId) -> Response:
        worker, held = await removal.worker_with_work(worker_id)
        ending = sum(task.cancel_asked for task in held)
        return pages.page(request, "worker_remove.html", worker=worker, held=held, ending=ending)

    @router.post("/workers/{worker_id}/remove")
    async def remove(request: Request, worker_id: PathWorkerId, caller: Caller) -> Response:
        await pages.form(request)
        await removal.remove(worker_id, actor=caller.name)
        return pages.go("/workers", notice="worker_removed")

    def _address(request: Request) -> str:
        return f"{request.url.scheme}://{request.url.netloc}{pages.base}"

    def _adding(request: Request, **context: Any) -> Response:
        url = _address(request)
        given: dict[str, Any] = {"name": "", "problem": False, "command": None, "made": None, "address": url}
        if not pages.asks_for_keys:
            given["command"] = f"bloom worker --runtime {url}"
        return pages.page(request, "worker_add.html", only_here=is_loopback(url), **given | context)

    return router
