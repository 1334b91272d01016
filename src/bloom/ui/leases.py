"""Leases: who may work on what, and for how long."""

from typing import Any

from fastapi import APIRouter
from starlette.datastructures import QueryParams

from bloom.tasks.model import LeaseStatus
from bloom.tasks.service.holding import HoldingService
from bloom.ui.listing import PAGE_ROWS, before_of, cursor_after, split
from bloom.ui.pages import Pages, Viewer

_ALL = "all"


def lease_pages(pages: Pages, holding: HoldingService) -> APIRouter:
    """The router at the root. The active leases are shown where the query does not say."""
    router = APIRouter(include_in_schema=False)

    async def load(query: QueryParams, viewer: Viewer) -> dict[str, Any]:
        asked = query.get("status")
        status = LeaseStatus(asked) if asked in tuple(LeaseStatus) else LeaseStatus.ACTIVE
        wanted = None if asked == _ALL else status
        found = await holding.page(status=wanted, before=before_of(query), limit=PAGE_ROWS + 1)
        shown, more = split(found)
        chosen = _ALL if wanted is None else status.value
        further = pages.url("/leases", status=chosen, cursor=cursor_after(shown[-1].seq)) if more else None
        return {"leases": shown, "chosen": chosen, "states": list(LeaseStatus), "next_url": further}

    pages.live_page(router, "/leases", "leases", load)
    return router
