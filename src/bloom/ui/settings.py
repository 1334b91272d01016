"""Settings, for admins: the connection to Membridge, the state of database and object store."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from bloom.artifacts.service import ArtifactService
from bloom.audit.model import key_actor
from bloom.base.errors import InvalidInput
from bloom.db.condition import read_state
from bloom.db.pool import Database
from bloom.keys.routes import PathKeyId
from bloom.keys.service import KeyService
from bloom.ui.keys import NO_KEY_FORM, KeyForm, key_list, make_key, read_key_form
from bloom.ui.membridge import WORDS
from bloom.ui.notices import N_
from bloom.ui.pages import Pages, text_of
from bloom.upstream.schemas import ConnectionTest, SaveConfig
from bloom.upstream.service import ConnectionService
from bloom.web.parameters import Caller

_PROBLEMS = {
    "url": N_("This must be an address like http://host:8000 or https://host/path, without a user name or password."),
    "key": N_("A key has 1 to 1,024 printable ASCII characters."),
    "key_needed": N_("Enter the key, too: the address names another server, which must not see the key of the one before."),
    "empty": N_("Enter an address."),
}  # fmt: skip


class _SettingsPage:
    """Renders the page, for each of its forms."""

    def __init__(
        self,
        pages: Pages,
        connections: ConnectionService,
        keys: KeyService,
        artifacts: ArtifactService,
        database: Database,
    ) -> None:
        self._pages = pages
        self._connections = connections
        self._keys = keys
        self._artifacts = artifacts
        self._database = database

    async def show(
        self,
        request: Request,
        *,
        status: int = 200,
        url: str | None = None,
        problems: dict[str, str] | None = None,
        tested: ConnectionTest | None = None,
        key_form: KeyForm = NO_KEY_FORM,
    ) -> Response:
        """The page; `url` and `problems` are of a form that could not be taken, `tested` is the outcome of a test."""
        say = self._pages.viewer(request).language.say
        config = await self._connections.config()
        listed, store, state = await asyncio.gather(
            key_list(self._pages, self._keys, request), self._artifacts.store_answers(), read_state(self._database)
        )
        context: dict[str, Any] = {
            "config": config,
            "typed_url": config.membridge_server_url if url is None else url,
            "problems": {field: say(_PROBLEMS[name]) for field, name in (problems or {}).items()},
            "tested": tested,
            "tested_words": None if tested is None else say(WORDS.get(tested.code or "", WORDS["membridge_error"])),
            "store_kind": store[0],
            "store_answers": store[1],
            "state": state,
            "key_form": key_form,
            "key_problem": say(key_form.words) if key_form.problem else None,
            **listed,
        }
        return self._pages.page(request, "settings.html", status=status, **context)


def settings_pages(
    pages: Pages, connections: ConnectionService, keys: KeyService, artifacts: ArtifactService, database: Database
) -> APIRouter:
    """The router at the root."""
    settings = _SettingsPage(pages, connections, keys, artifacts, database)
    router = APIRouter(include_in_schema=False)

    @router.get("/settings")
    async def show(request: Request) -> Response:
        return await settings.show(request)

    @router.post("/settings/membridge")
    async def save(request: Request, caller: Caller) -> Response:
        sent = await pages.form(request)
        url, key = text_of(sent, "membridge_url").strip(), text_of(sent, "membridge_key").strip()
        problems = {} if url else {"membridge_url": "empty"}
        if not problems:
            try:
                await connections.save(SaveConfig(membridge_server_url=url, admin_key=key), actor=caller.name)
            except ValidationError as error:
                bad = {str(problem["loc"][0]) for problem in error.errors(include_input=False, include_context=False)}
                names = {"membridge_server_url": ("membridge_url", "url"), "admin_key": ("membridge_key", "key")}
                problems = dict(names[field] for field in bad)
            except InvalidInput:  # the address is that of another server, and there is no key for it
                problems = {"membridge_key": "key_needed"}
        if problems:
            return await settings.show(request, status=400, url=url, problems=problems)
        return pages.go("/settings", notice="saved")

    @router.post("/settings/membridge/test")
    async def test(request: Request, caller: Caller) -> Response:
        await pages.form(request)
        return await settings.show(request, tested=await connections.test(actor=caller.name))

    @router.post("/settings/keys")
    async def create(request: Request, caller: Caller) -> Response:
        made = await make_key(keys, read_key_form(await pages.form(request)), actor=caller.name)
        if isinstance(made, KeyForm):
            return await settings.show(request, status=400, key_form=made)
        # This answer alone shows it: no redirect, and no cache keeps a page.
        return pages.page(request, "key_made.html", key=made.key, secret=made.secret)

    @router.get("/settings/keys/{key_id}/revoke")
    async def revoking(request: Request, key_id: PathKeyId, caller: Caller) -> Response:
        key = await keys.get(key_id)
        return pages.page(request, "key_revoke.html", key=key, own=caller.name == key_actor(key.name))

    @router.post("/settings/keys/{key_id}/revoke")
    async def revoke(request: Request, key_id: PathKeyId, caller: Caller) -> Response:
        await pages.form(request)
        await keys.revoke(key_id, actor=caller.name)
        return pages.go("/settings", notice="key_revoked")

    return router
