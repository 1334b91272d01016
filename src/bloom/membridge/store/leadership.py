"""Typed calls of the SQL of leadership."""

from collections.abc import Sequence
from datetime import datetime

from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.membridge.model import GrantReason, Lease, Project
from bloom.membridge.store.projects import project_of

_SQL = load_queries("bloom.membridge.store", "leadership.sql")


async def begin_term(
    connection: Connection,
    canonical_id: str,
    node_id: str,
    *,
    reason: GrantReason,
    lease_seconds: int,
    issued_by: str,
    preferred: str | None,
    now: datetime,
) -> Project:
    """Let the node lead for a new epoch. The project is locked."""
    params = {
        "canonical_id": canonical_id,
        "node_id": node_id,
        "reason": reason,
        "lease_seconds": lease_seconds,
        "issued_by": issued_by,
        "preferred": preferred,
        "now": now,
    }
    row = await fetch_one(connection, _SQL["begin_term"], params)
    assert row is not None  # noqa: S101 (the project is locked, so it is there)
    return project_of(row)


async def renew(
    connection: Connection,
    canonical_id: str,
    *,
    lease_seconds: int | None = None,
    issued_by: str | None = None,
    preferred: str | None = None,
    now: datetime,
) -> Project:
    """Prolong the lease of the present term, by its own length or by `lease_seconds`. The project is locked."""
    params = {
        "canonical_id": canonical_id,
        "lease_seconds": lease_seconds,
        "issued_by": issued_by,
        "preferred": preferred,
        "now": now,
    }
    row = await fetch_one(connection, _SQL["renew"], params)
    assert row is not None  # noqa: S101
    return project_of(row)


async def claim_publication(connection: Connection, *, claim_sec: float, now: datetime) -> Project | None:
    """A project whose lease is to be written to the bucket, claimed for `claim_sec` seconds; None when nothing is due."""
    row = await fetch_one(connection, _SQL["claim_publication"], {"claim_sec": claim_sec, "now": now})
    return None if row is None else project_of(row)


async def unpublished_terms(connection: Connection, canonical_id: str) -> list[Lease]:
    """The terms whose copies are not in the bucket yet, oldest first, as they began."""
    rows = await fetch_all(connection, _SQL["unpublished_terms"], {"canonical_id": canonical_id})
    return [
        Lease(row["epoch"], row["node_id"], row["lease_seconds"], row["issued_at"], row["issued_by"], row["expires_at"])
        for row in rows
    ]


async def end_publication(
    connection: Connection,
    canonical_id: str,
    written: Lease,
    *,
    epochs: Sequence[int],
    retry_sec: float | None,
    now: datetime,
) -> None:
    """End the claim: `written` and the copies of `epochs` are in the bucket, or it is to be tried again in `retry_sec`."""
    if epochs:
        params = {"canonical_id": canonical_id, "epochs": list(epochs), "now": now}
        await connection.execute(_SQL["terms_published"], params)
    params = {
        "canonical_id": canonical_id,
        "epoch": written.epoch,
        "lease_seconds": written.lease_seconds,
        "expires_at": written.expires_at,
        "retry_sec": retry_sec,
        "now": now,
    }
    await connection.execute(_SQL["end_publication"], params)
