"""The wire of the audit log."""

from typing import Any

from pydantic import BaseModel


class AuditLogEntry(BaseModel):
    """Who (`actor`) did what (`action`) to which thing. `timestamp` in epoch milliseconds."""

    id: str
    timestamp: int
    action: str
    entity_type: str
    entity_id: str
    actor: str
    detail: dict[str, Any]
