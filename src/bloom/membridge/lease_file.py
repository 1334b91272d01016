"""A lease as it lies in the bucket, for nodes that cannot reach the service (contract, 2.3)."""

import re
from datetime import UTC
from typing import Any

from bloom.base.clock import to_ms
from bloom.membridge.model import Lease

POLICY = "primary_authoritative"


def lease_fields(canonical_id: str, lease: Lease) -> dict[str, Any]:
    """`lease` as the content of `lease.json`; times in epoch milliseconds."""
    return {
        "canonical_id": canonical_id,
        "primary_node_id": lease.node_id,
        "issued_at": to_ms(lease.issued_at),
        "expires_at": to_ms(lease.expires_at),
        "lease_seconds": lease.lease_seconds,
        "epoch": lease.epoch,
        "policy": POLICY,
        "issued_by": lease.issued_by,
    }


def lease_key(canonical_id: str) -> str:
    """The key of a project's `lease.json`."""
    return f"projects/{canonical_id}/leadership/lease.json"


def audit_key(canonical_id: str, lease: Lease) -> str:
    """The key of the copy that is kept of a term: the same one however often it is written."""
    stamp = lease.issued_at.astimezone(UTC).strftime("%Y%m%dT%H%M%S") + f".{lease.issued_at.microsecond // 1000:03d}Z"
    node = re.sub(r"[^A-Za-z0-9._-]+", "_", lease.node_id)
    return f"projects/{canonical_id}/leadership/audit/{stamp}-{node}.json"
