"""Membridge: projects, who leads them, their nodes, sync jobs and memory versions."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, get_args

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.datastructures import QueryParams

from bloom.base.errors import BloomError, NotFound, Upstream
from bloom.ui.notices import N_
from bloom.ui.pages import Pages, Viewer, text_of
from bloom.upstream.looking import MembridgeService, names_of
from bloom.upstream.schemas import SelectPrimary
from bloom.upstream.told import Direction, Project
from bloom.web.parameters import Caller, can_be_id

LOOK_EVERY_SEC = 2.0
"""Membridge does not tell this runtime what happens there."""

LEASE_HOURS = (1, 6, 24, 24 * 7)

_CID = re.compile(r"[A-Za-z0-9_-]{1,128}")

WORDS: Mapping[str, str] = {
    "membridge_not_configured": N_("No Membridge is connected. An administrator connects it in the settings."),
    "membridge_key_unreadable": N_(
        "The saved key of Membridge cannot be read: the secret that it was stored with is another one. Enter the key again."
    ),
    "membridge_unreachable": N_("Membridge cannot be reached. Is it running, and is its address in the settings right?"),
    "membridge_timeout": N_("Membridge does not answer in time. It may be busy, or its address may be wrong."),
    "membridge_redirect": N_("Membridge answers with a redirect, which is not followed. Check its address in the settings."),
    "membridge_too_large": N_("Membridge answers with more than can be shown."),
    "membridge_not_json": N_("What answers there is not Membridge, or not of this kind. Check its address in the settings."),
    "membridge_unauthorized": N_("Membridge refuses the key of this runtime. Enter the right one in the settings."),
    "membridge_forbidden": N_("Membridge refuses the key of this runtime. Enter the right one in the settings."),
    "membridge_error": N_("Membridge answered with an error."),
    "project_not_found": N_("Membridge knows no such project."),
    "node_not_found": N_("Membridge has not heard from this node yet; it has to send a heartbeat first."),
    "agent_not_found": N_("Membridge knows no such agent any more."),
    "agent_offline": N_("The agent is offline and can be called at no address. Start it there: bloom worker --membridge URL."),
    "agent_unreachable": N_("The agent could not be called at its address."),
}  # fmt: skip
"""What pages say of an error of Membridge or of the way to it, by its code."""


def told(error: BloomError, viewer: Viewer) -> str:
    """The error in the viewer's words."""
    return viewer.language.say(WORDS.get(error.code, WORDS["membridge_error"]))


def membridge_pages(pages: Pages, membridge: MembridgeService) -> APIRouter:
    """The router at the root."""
    router = APIRouter(include_in_schema=False)

    async def load(query: QueryParams, viewer: Viewer) -> dict[str, Any]:
        found, problem = await _try(membridge.projects(), viewer)
        agents, _ = (None, None) if problem else await _try(membridge.agents(), viewer)
        return {"projects": found, "agents": agents or [], "problem": problem}

    async def load_one(query: QueryParams, viewer: Viewer) -> dict[str, Any]:
        cid = query["cid"]
        project, problem = await _try(membridge.project(_known_form(cid)), viewer)
        context: dict[str, Any] = {"cid": cid, "project": project, "problem": problem}
        for name, ask in _PARTS.items():
            context[name], context[f"{name}_problem"] = None, None
            if project is not None:
                context[name], context[f"{name}_problem"] = await _try(ask(membridge, project), viewer)
        context["agent_names"] = names_of(context["agents"] or [])
        return context

    pages.live_page(router, "/membridge", "membridge", load)
    pages.live_page(router, "/membridge/{cid}", "membridge_project", load_one, every_sec=LOOK_EVERY_SEC)

    @router.get("/membridge/{cid}/promote")
    async def promoting(request: Request, cid: str) -> Response:
        node = request.query_params.get("node", "")
        project = await membridge.project(_known_form(cid))
        seen = await membridge.leadership(project.canonical_id)
        if node not in [known.node_id for known in seen.nodes]:
            raise NotFound(WORDS["node_not_found"], code="node_not_found")
        return pages.page(
            request, "membridge_promote.html", project=project, seen=seen, node=node, lease_hours=LEASE_HOURS
        )

    @router.post("/membridge/{cid}/promote")
    async def promote(request: Request, cid: str, caller: Caller) -> Response:
        sent = await pages.form(request)
        hours = text_of(sent, "hours")
        try:
            wanted = SelectPrimary(
                primary_node_id=text_of(sent, "node"),
                lease_seconds=3600 * (int(hours) if hours in map(str, LEASE_HOURS) else LEASE_HOURS[0]),
            )
        except ValidationError:
            raise NotFound(WORDS["node_not_found"], code="node_not_found") from None
        await membridge.promote(_known_form(cid), wanted, actor=caller.name)
        return pages.go(f"/membridge/{cid}", notice="promoted")

    @router.post("/membridge/{cid}/sync")
    async def sync(request: Request, cid: str, caller: Caller) -> Response:
        sent = await pages.form(request)
        agent, direction = text_of(sent, "agent"), text_of(sent, "direction")
        if direction not in get_args(Direction) or not agent or not can_be_id(agent):
            raise NotFound(WORDS["agent_not_found"], code="agent_not_found")
        project = await membridge.project(_known_form(cid))
        wanted: Direction = "push" if direction == "push" else "pull"
        ordered = await membridge.sync(wanted, project, agent, dryrun="dryrun" in sent, actor=caller.name)
        return pages.go(f"/membridge/{cid}", notice="sync_started" if ordered.ok else "sync_failed")

    return router


_PARTS: Mapping[str, Callable[[MembridgeService, Project], Awaitable[Any]]] = {
    "seen": lambda membridge, project: membridge.leadership(project.canonical_id),
    "agents": lambda membridge, project: membridge.agents(),
    "jobs": lambda membridge, project: membridge.jobs(project),
    "versions": lambda membridge, project: membridge.versions(project.canonical_id),
}


def _known_form(cid: str) -> str:
    if not _CID.fullmatch(cid):
        raise NotFound(WORDS["project_not_found"], code="project_not_found")
    return cid


async def _try(asking: Awaitable[Any], viewer: Viewer) -> tuple[Any, str | None]:
    """The answer, or what to say in its place: a part of a page that cannot be told does not take the others along."""
    try:
        return await asking, None
    except Upstream as error:
        return None, told(error, viewer)
