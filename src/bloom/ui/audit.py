"""The audit log: who did what to which thing, filtered, and as a file of JSON lines."""

import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.datastructures import QueryParams
from starlette.responses import StreamingResponse

from bloom.audit.model import AuditAction, AuditEntry, AuditFilter
from bloom.audit.schemas import audit_fields
from bloom.audit.service import PAGE, AuditService
from bloom.base.errors import InvalidInput
from bloom.base.text import is_storable
from bloom.ui.listing import PAGE_ROWS, before_of, cursor_after, split
from bloom.ui.moments import moment_of
from bloom.ui.notices import N_
from bloom.ui.pages import Pages, Viewer

_TEXTS = ("actor", "entity_type", "entity_id")
_TIMES = ("since", "until")
_OFFSETS = ("since_offset", "until_offset")
_LONGEST = 512
_NO_ACTION = N_("There is no such action.")
_NO_TIME = N_("This must be a date and a time, such as 2030-01-31T12:00.")
_NO_TEXT = N_("This can be the name of nothing.")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the form says."""

    values: Mapping[str, str]
    wanted: AuditFilter
    problems: Mapping[str, str]


def audit_pages(pages: Pages, audit: AuditService) -> APIRouter:
    """The router at the root."""
    router = APIRouter(include_in_schema=False)

    async def load(query: QueryParams, viewer: Viewer) -> dict[str, Any]:
        asked = _read(query)
        found: list[AuditEntry] = []
        if not asked.problems:
            found = await audit.page(asked.wanted, before=before_of(query), limit=PAGE_ROWS + 1)
        shown, more = split(found)
        return {
            "entries": [(entry, json.dumps(entry.detail, ensure_ascii=False)) for entry in shown],
            "actions": [action.value for action in AuditAction],
            "asked": asked.values,
            "next_url": pages.url("/audit", **asked.values, cursor=cursor_after(shown[-1].id)) if more else None,
            "download_url": pages.url("/audit/download", **asked.values),
            "problems": {name: viewer.language.say(text) for name, text in asked.problems.items()},
            "status": 400 if asked.problems else 200,
        }

    pages.live_page(router, "/audit", "audit", load)

    @router.get("/audit/download")
    async def download(request: Request) -> Response:
        """All entries that are wanted, newest first, a JSON object in each line."""
        asked = _read(request.query_params)
        if asked.problems:
            fields = {name: [text] for name, text in asked.problems.items()}
            raise InvalidInput("The filter is not of the required form", fields=fields)
        # Asked for before the answer begins, so that a database that is away is a 503 and not a cut file.
        first = await audit.page(asked.wanted, limit=PAGE)
        headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"', "Cache-Control": "no-store"}
        return StreamingResponse(_lines(audit, asked.wanted, first), media_type="application/x-ndjson", headers=headers)

    return router


async def _lines(audit: AuditService, wanted: AuditFilter, found: list[AuditEntry]) -> AsyncGenerator[bytes, None]:
    while found:
        yield "".join(json.dumps(audit_fields(entry), ensure_ascii=False) + "\n" for entry in found).encode()
        found = await audit.page(wanted, before=found[-1].id, limit=PAGE) if len(found) == PAGE else []


def _read(query: QueryParams) -> _Asked:
    values = {name: query.get(name, "").strip() for name in ("action", *_TEXTS, *_TIMES, *_OFFSETS)}
    problems = {name: _NO_TEXT for name in _TEXTS if len(values[name]) > _LONGEST or not is_storable(values[name])}
    action = values["action"]
    if action and action not in tuple(AuditAction):
        problems["action"] = _NO_ACTION
    moments: dict[str, datetime] = {}
    for field in _TIMES:
        if values[field]:
            try:
                moments[field] = moment_of(values[field], values[f"{field}_offset"])
            except (ValueError, OverflowError):
                problems[field] = _NO_TIME
    if problems:
        return _Asked(values, AuditFilter(), problems)
    wanted = AuditFilter(
        action=AuditAction(action) if action else None,
        actor=values["actor"] or None,
        entity_type=values["entity_type"] or None,
        entity_id=values["entity_id"] or None,
        since=moments.get("since"),
        until=moments.get("until"),
    )
    return _Asked(values, wanted, {})
