"""Typed calls of the artifacts' SQL."""

from collections.abc import Sequence
from typing import Any

from psycopg.rows import DictRow

from bloom.artifacts.model import Artifact, Place, Placement, Upload
from bloom.base.ids import ArtifactId, TaskId
from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.artifacts")

OBJECTS_LOCK = 0x626C6F6F6D6F  # "bloomo"
"""The advisory lock that a backup shares: whoever holds it keeps the objects that its snapshot knows."""


def _artifact(row: DictRow) -> Artifact:
    fields: dict[str, Any] = {**row, "place": Place(row["place"])}
    return Artifact(**fields)


async def by_id(connection: Connection, artifact_id: ArtifactId) -> Artifact | None:
    """One artifact, whole."""
    return (await by_ids(connection, [artifact_id])).get(artifact_id)


async def by_ids(connection: Connection, ids: Sequence[ArtifactId]) -> dict[ArtifactId, Artifact]:
    """The artifacts of `ids` that exist, whole."""
    if not ids:
        return {}
    return {row["id"]: _artifact(row) for row in await fetch_all(connection, _SQL["by_ids"], {"ids": list(ids)})}


async def page(
    connection: Connection, *, task_id: TaskId | None, before: int | None, limit: int, cut: int
) -> list[Artifact]:
    """Up to `limit` artifacts (of one task) with a `seq` below `before`, newest first, contents cut to `cut` characters."""
    params = {"task_id": task_id, "before": before, "limit": limit, "cut": cut}
    rows = await fetch_all(connection, _SQL["page" if task_id is None else "page_of_task"], params)
    return [_artifact(row) for row in rows]


async def keep_chunks(connection: Connection, task_id: TaskId, artifact_id: ArtifactId, placement: Placement) -> None:
    """Write the chunks of `placement`: the content of a large artifact that came with its completion."""
    size = {"size_bytes": placement.columns["size_bytes"], "sha256": placement.columns["sha256"]}
    params = {"id": artifact_id, "task_id": task_id, "chunks": len(placement.chunks), **size}
    await connection.execute(_SQL["keep_content"], params)
    async with connection.cursor() as cursor:
        await cursor.executemany(
            _SQL["insert_chunk"],
            [{"id": artifact_id, "n": n, "data": data} for n, data in enumerate(placement.chunks)],
        )


async def chunk(connection: Connection, artifact_id: ArtifactId, n: int) -> bytes | None:
    """Piece `n` of a large content, None after the last."""
    cursor = await connection.execute(_SQL["chunk"], {"id": artifact_id, "n": n}, binary=True)
    row = await cursor.fetchone()
    return None if row is None else row["data"]


async def upload(connection: Connection, upload_id: ArtifactId) -> Upload | None:
    """How far an upload is."""
    row = await fetch_one(connection, _SQL["upload"], {"id": upload_id})
    return None if row is None else Upload(**row)


async def note_digest(connection: Connection, found: Upload, sha256: str) -> None:
    """Remember the digest of what `found` had received, unless it has grown since."""
    await connection.execute(_SQL["note_digest"], {"id": found.id, "received": found.received, "sha256": sha256})


async def orphans(connection: Connection, objects: Sequence[tuple[str, TaskId, ArtifactId]]) -> list[str]:
    """Those of the objects (key, task, artifact) that belong to a task of ours and to no artifact."""
    keys, task_ids, artifact_ids = (list(column) for column in zip(*objects, strict=True))
    params = {"keys": keys, "task_ids": task_ids, "artifact_ids": artifact_ids}
    return [row["key"] for row in await fetch_all(connection, _SQL["orphans"], params)]


async def pruned(connection: Connection, *, limit: int) -> list[str]:
    """Keys of up to `limit` objects of pruned tasks that are still in the store; none while a backup runs."""
    params = {"limit": limit, "lock": OBJECTS_LOCK}
    return [row["object_key"] for row in await fetch_all(connection, _SQL["pruned"], params)]


async def forget_pruned(connection: Connection, keys: Sequence[str]) -> None:
    """These objects are deleted from the store."""
    await connection.execute(_SQL["forget_pruned"], {"keys": list(keys)})


async def to_move(connection: Connection, *, limit: int) -> list[Artifact]:
    """Up to `limit` artifacts that wait for the object store, oldest first."""
    return [_artifact(row) for row in await fetch_all(connection, _SQL["to_move"], {"limit": limit})]


async def moved(connection: Connection, artifact_id: ArtifactId, *, object_key: str, url: str, cut: int) -> bool:
    """Point the artifact to the object store and drop its content here. False when somebody else has done so."""
    params = {"id": artifact_id, "object_key": object_key, "url": url, "cut": cut}
    return await fetch_one(connection, _SQL["moved"], params) is not None
