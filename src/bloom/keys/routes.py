"""HTTP of keys."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from bloom.base.ids import KeyId
from bloom.keys.schemas import CreatedKey, CreateKey, Join, KeyOut, RotateKey, key_fields
from bloom.keys.service import KeyService, MadeKey, key_not_found
from bloom.web.answers import JsonAnswer
from bloom.web.auth import presented_key
from bloom.web.bodies import StrictRoute
from bloom.web.openapi import conflict
from bloom.web.paging import DEFAULT_LIMIT, PageLimit
from bloom.web.parameters import Before, Caller, can_be_id, page_answer


async def _key_id(key_id: str) -> KeyId:
    # A key that was pasted here is not told back.
    if not can_be_id(key_id) or key_id.startswith("bloom_"):
        raise key_not_found("(unreadable)")
    return KeyId(key_id)


PathKeyId = Annotated[KeyId, Depends(_key_id)]


def key_routes(keys: KeyService, *, asked_for: bool) -> APIRouter:
    """The router below `/api/runtime`. `asked_for`: whether this runtime asks its callers for a key at all."""
    router = APIRouter(route_class=StrictRoute, tags=["keys"])

    @router.post("/keys", status_code=201, response_model=CreatedKey, responses=conflict("A key has this name"))
    async def create(body: CreateKey, caller: Caller) -> Response:
        """Make a key. This answer alone shows it."""
        return _shown_once(await keys.create(body, actor=caller.name))

    @router.get("/keys", response_model=list[KeyOut])
    async def list_keys(request: Request, before: Before, limit: PageLimit = DEFAULT_LIMIT) -> Response:
        """Keys, newest first; revoked ones too, for the audit log names them."""
        found = await keys.page(before=before, limit=limit + 1)
        shown = found[:limit]
        rows = [key_fields(key) for key in shown]
        return page_answer(request, rows, more=len(found) > limit, last=shown[-1].seq if shown else None)

    @router.delete("/keys/{key_id}", response_model=KeyOut)
    async def revoke(key_id: PathKeyId, caller: Caller) -> Response:
        """Revoke a key: it is refused from now on, and what waits under it ends. Repeating this changes nothing."""
        return JsonAnswer(key_fields(await keys.revoke(key_id, actor=caller.name)))

    @router.post(
        "/keys/{key_id}/rotate", status_code=201, response_model=CreatedKey, responses=conflict("The key is not valid")
    )
    async def rotate(key_id: PathKeyId, caller: Caller, body: RotateKey | None = None) -> Response:
        """Give a key a new secret, which this answer alone shows; the one before is taken for `overlap_sec` more seconds."""
        return _shown_once(await keys.rotate(key_id, body or RotateKey(), actor=caller.name))

    @router.post(
        "/keys/join", status_code=201, response_model=CreatedKey, responses=conflict("The worker has a key already")
    )
    async def join(request: Request, body: Join) -> Response:
        """Exchange a join token, shown as the key, for the key of a worker; the token is used up."""
        return _shown_once(await keys.join(presented_key(request), body))

    def _shown_once(made: MadeKey) -> Response:
        return JsonAnswer({**key_fields(made.key), "key": made.secret, "asked_for": asked_for}, status_code=201)

    return router
