"""Large outputs on their way."""

from dataclasses import dataclass
from datetime import datetime

from bloom.base.ids import ArtifactId, LeaseId, TaskId
from bloom.db.pool import Connection, fetch_one
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.tasks.store", "uploads.sql")


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """How far the upload of a lease is. `unfinished`: the bytes of a character that the next piece has to finish."""

    id: ArtifactId
    received: int
    unfinished: bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """What is to be appended at `offset`. `sha256` is of all that will have been received then, where it is known."""

    upload_id: ArtifactId
    offset: int
    data: bytes
    unfinished: bytes
    sha256: str | None


async def remove(connection: Connection, task_id: TaskId, lease_id: LeaseId) -> None:
    """Forget what was received for a lease of a locked task."""
    await connection.execute(_SQL["remove"], {"task_id": task_id, "lease_id": lease_id})


async def open_upload(connection: Connection, task_id: TaskId, lease_id: LeaseId, upload_id: ArtifactId) -> None:
    """Begin an upload for the current lease of a locked task, unless there is one."""
    await connection.execute(_SQL["open"], {"id": upload_id, "task_id": task_id, "lease_id": lease_id})


async def by_lease(connection: Connection, task_id: TaskId, lease_id: LeaseId) -> OpenUpload | None:
    """The upload of a lease of this task."""
    row = await fetch_one(connection, _SQL["by_lease"], {"task_id": task_id, "lease_id": lease_id})
    return None if row is None else OpenUpload(**row)


async def append(connection: Connection, piece: Piece, *, now: datetime | None) -> bool:
    """Append to an upload of a locked task; False when its lease is not current any more, or `offset` is not its end."""
    params = {
        "id": piece.upload_id,
        "offset": piece.offset,
        "size": len(piece.data),
        "data": piece.data,
        "unfinished": piece.unfinished,
        "sha256": piece.sha256,
        "now": now,
    }
    return await fetch_one(connection, _SQL["append"], params) is not None


async def sweep(connection: Connection, *, limit: int, now: datetime | None) -> int:
    """Forget up to `limit` uploads that nobody will complete; returns how many."""
    cursor = await connection.execute(_SQL["sweep"], {"limit": limit, "now": now})
    return cursor.rowcount
