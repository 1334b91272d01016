"""HTTP of the audit log."""

from fastapi import APIRouter, Request, Response

from bloom.audit.schemas import AuditLogEntry
from bloom.audit.service import AuditService
from bloom.base.clock import to_ms
from bloom.web.paging import DEFAULT_LIMIT, PageLimit
from bloom.web.parameters import Before, page_answer


def audit_routes(audit: AuditService) -> APIRouter:
    """The router below `/api/runtime`."""
    router = APIRouter(tags=["audit"])

    @router.get("/audit", response_model=list[AuditLogEntry])
    async def page(request: Request, before: Before, limit: PageLimit = DEFAULT_LIMIT) -> Response:
        """Audit entries, newest first."""
        found = await audit.page(before=before, limit=limit + 1)
        rows = [
            {
                "id": str(entry.id),
                "timestamp": to_ms(entry.at),
                "action": entry.action,
                "entity_type": entry.entity_type,
                "entity_id": entry.entity_id,
                "actor": entry.actor,
                "detail": entry.detail,
            }
            for entry in found[:limit]
        ]
        return page_answer(request, rows, more=len(found) > limit, last=found[:limit][-1].id if found else None)

    return router
