"""HTTP of the connection to Membridge: its configuration, and what is passed on to it."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import JSONResponse

from bloom.base.errors import InvalidInput, Upstream
from bloom.upstream.client import Answer
from bloom.upstream.schemas import ConfigOut, ConnectionTest, SaveConfig, SelectPrimary
from bloom.upstream.service import ConnectionService
from bloom.web.auth import principal_of
from bloom.web.bodies import StrictRoute
from bloom.web.errors import json_error
from bloom.web.openapi import Responses, answered
from bloom.web.parameters import Caller

_CID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ANONYMOUS = "anonymous"


async def _cid(cid: str) -> str:
    if not _CID.fullmatch(cid):
        text = "Must be the id of a project: letters, digits, - and _"
        raise InvalidInput(text, fields={"cid": [text]})
    return cid


ProjectId = Annotated[str, Depends(_cid)]


def config_routes(connections: ConnectionService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(route_class=StrictRoute, tags=["membridge"])

    @router.get("/config", response_model=ConfigOut)
    async def config() -> ConfigOut:
        """Where Membridge is, the key masked: saved here, else of the environment, else the default."""
        return await connections.config()

    @router.post("/config", response_model=ConfigOut)
    async def save(body: SaveConfig, caller: Caller) -> ConfigOut:
        """Save the address, the key or both. Another scheme, host or port asks for the key again."""
        return await connections.save(body, actor=caller.name)

    @router.post("/test-connection", response_model=ConnectionTest)
    async def test_connection(request: Request) -> Response:
        """Try the connection as it is configured. Open to everybody; a body is not looked at."""
        caller = principal_of(request.scope)
        outcome = await connections.test(actor=_ANONYMOUS if caller is None else caller.name)
        return JSONResponse(outcome.model_dump(exclude_none=True))

    return router


def proxy_routes(connections: ConnectionService) -> APIRouter:
    """The router below `/api/membridge`. Status codes of Membridge are passed on; 502 is ours: no usable answer."""
    router = APIRouter(route_class=StrictRoute, tags=["membridge"])

    async def passed_on(path: str) -> Response:
        try:
            return _passed_on(await connections.ask(path))
        except Upstream as error:
            return _bad_gateway(error)

    @router.get("/health", responses=_passed_on_answers({"status": "ok", "projects": 1, "agents": 1}))
    async def health() -> Response:
        """How Membridge is."""
        return await passed_on("/health")

    @router.get(
        "/projects",
        responses=_passed_on_answers([{"name": "garden", "canonical_id": "6c1d5b2f7a80e934", "nodes_count": 2}]),
    )
    async def projects() -> Response:
        """The projects that Membridge knows."""
        return await passed_on("/projects")

    @router.get(
        "/projects/{cid}/leadership",
        responses=_passed_on_answers({"canonical_id": "6c1d5b2f7a80e934", "preferred_primary": "pi4", "node_count": 2}),
    )
    async def leadership(cid: ProjectId) -> Response:
        """Who leads a project."""
        return await passed_on(f"/projects/{cid}/leadership")

    @router.get(
        "/projects/{cid}/nodes",
        responses=_passed_on_answers([{"node_id": "pi4", "role": "primary", "online": True}]),
    )
    async def nodes(cid: ProjectId) -> Response:
        """The nodes of a project."""
        return await passed_on(f"/projects/{cid}/nodes")

    @router.post(
        "/projects/{cid}/leadership/select",
        responses=_passed_on_answers({"ok": True, "primary_node_id": "pi4", "lease_seconds": 3600}),
    )
    async def select(cid: ProjectId, body: SelectPrimary, caller: Caller) -> Response:
        """Make a node the primary of a project."""
        try:
            return _passed_on(await connections.promote(cid, body, actor=caller.name))
        except Upstream as error:
            return _bad_gateway(error)

    return router


def _passed_on_answers(example: Any) -> Responses:
    return {
        **answered(example),
        "4XX": {"description": "What Membridge refuses"},
        502: {"description": "No usable answer of Membridge"},
        "5XX": {"description": "What Membridge says when it fails"},
    }


def _passed_on(answer: Answer) -> Response:
    if answer.is_success:
        return JSONResponse(answer.value, status_code=answer.status)
    return json_error(answer.status, *answer.refusal)


def _bad_gateway(error: Upstream) -> Response:
    # Not raised: a page that asks every second while Membridge is away must not fill the log. The state is in /health.
    return json_error(502, error.code, error.message)
