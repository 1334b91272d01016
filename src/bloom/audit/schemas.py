"""The wire of the audit log."""

from typing import Any

from pydantic import BaseModel

from bloom.audit.model import AuditEntry
from bloom.base.clock import to_ms


class AuditLogEntry(BaseModel):
    """Who (`actor`) did what (`action`) to which thing. `timestamp` in epoch milliseconds."""

    id: str
    timestamp: int
    action: str
    entity_type: str
    entity_id: str
    actor: str
    detail: dict[str, Any]


def audit_fields(entry: AuditEntry) -> dict[str, Any]:
    """`entry` as the fields of an AuditLogEntry."""
    return {
        "id": str(entry.id),
        "timestamp": to_ms(entry.at),
        "action": entry.action,
        "entity_type": entry.entity_type,
        "entity_id": entry.entity_id,
        "actor": entry.actor,
        "detail": entry.detail,
    }
