"""HTTP of the audit log."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from bloom.audit.model import AuditAction, AuditFilter, Position
from bloom.audit.schemas import AuditLogEntry, audit_fields
from bloom.audit.service import AuditService
from bloom.base.clock import from_ms
from bloom.base.errors import InvalidInput
from bloom.base.fields import StorableText
from bloom.web.openapi import streamed
from bloom.web.paging import DEFAULT_LIMIT, PageLimit
from bloom.web.parameters import Before, page_answer
from bloom.web.sse import SseEvent, event_stream, last_event_id

_CURSOR = re.compile("([0-9]{1,19})-([0-9]{1,19})", re.ASCII)


LATEST_MS = 253_402_300_799_999
"""The end of the year 9999."""

_Time = Annotated[int | None, Query(ge=0, le=LATEST_MS)]


async def _wanted(
    action: AuditAction | None = None,
    actor: StorableText | None = None,
    entity_type: StorableText | None = None,
    entity_id: StorableText | None = None,
    since: _Time = None,
    until: _Time = None,
) -> AuditFilter:
    return AuditFilter(action, actor, entity_type, entity_id, _moment(since), _moment(until))


def _moment(milliseconds: int | None) -> datetime | None:
    return None if milliseconds is None else from_ms(milliseconds)


def audit_routes(audit: AuditService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(tags=["audit"])

    @router.get("/audit", response_model=list[AuditLogEntry])
    async def page(
        request: Request,
        before: Before,
        wanted: Annotated[AuditFilter, Depends(_wanted)],
        limit: PageLimit = DEFAULT_LIMIT,
    ) -> Response:
        """Audit entries, newest first: those of one action, actor, kind of thing or thing, from `since` on, before `until`."""
        found = await audit.page(wanted, before=before, limit=limit + 1)
        rows = [audit_fields(entry) for entry in found[:limit]]
        return page_answer(request, rows, more=len(found) > limit, last=found[:limit][-1].id if found else None)

    @router.get(
        "/stream",
        response_class=Response,
        responses=streamed(
            "text/event-stream", 'id: 812-41\nevent: audit\ndata: {"action":"task_created","actor":"admin"}\n\n'
        ),
    )
    async def stream(request: Request) -> Response:
        """Follow the audit log from now on, or after `Last-Event-ID`: `event: start`, whose id is where this begins, then
        `event: audit` for each entry, each once, whichever replica is asked.
        """
        start = await audit.position(_position(last_event_id(request)))
        return event_stream(_events(audit, start))

    return router


async def _events(audit: AuditService, start: Position) -> AsyncGenerator[SseEvent, None]:
    yield SseEvent({}, id=_cursor(start), event="start")
    async with aclosing(audit.follow(start)) as entries:
        async for position, entry in entries:
            yield SseEvent(audit_fields(entry), id=_cursor(position), event="audit")


def _cursor(position: Position) -> str:
    return f"{position.tx}-{position.id}"


def _position(cursor: str | None) -> Position | None:
    if cursor is None:
        return None
    if not (match := _CURSOR.fullmatch(cursor)) or max(int(match[1]), int(match[2])) >= 2**63:
        text = "Must be the id of an event of this stream, such as 1234-56"
        raise InvalidInput(text, fields={"Last-Event-ID": [text]})
    return Position(int(match[1]), int(match[2]))
