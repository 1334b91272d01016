"""Where outputs go and how they are read back."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator

from bloom.artifacts import store
from bloom.artifacts.model import CHUNK_BYTES, INLINE_MAX_BYTES, Artifact, Place, Placement
from bloom.base.errors import BloomError, Conflict, NotFound
from bloom.base.ids import ArtifactId, TaskId
from bloom.blobs.errors import BlobError
from bloom.blobs.interface import BlobStore
from bloom.db.pool import Database

CUT_CHARS = 64 * 1024
"""Longer contents are cut in lists (wire contract, "Artifacts")."""

PRESIGNED_SEC = 3600

PUT_TIMEOUT_SEC = 10.0
STORE_REST_SEC = 15.0
"""After a failure the store is not asked again for so long, so that a hanging one does not hold up every completion."""

MOVE_BATCH = 20

_log = logging.getLogger(__name__)


def artifact_not_found(artifact_id: str) -> NotFound:
    """There is no such artifact."""
    return NotFound(f"There is no artifact {artifact_id!r}.", code="artifact_not_found")


def _not_signable() -> Conflict:
    return Conflict(
        "This artifact is not in an object store that can sign links; read it from its content route.",
        code="not_in_object_store",
    )


class ArtifactService:
    """Artifacts in PostgreSQL, and in an object store where one is set."""

    def __init__(self, database: Database, blobs: BlobStore | None) -> None:
        self._database = database
        self._blobs = blobs
        self._store_rests_until = 0.0

    async def place(self, task_id: TaskId, artifact_id: ArtifactId, text: str) -> Placement:
        """Put `text` where it will stay, before the transaction that makes the artifact: the object store, else (not set, or
        down) PostgreSQL. Never fails for the store's sake.
        """
        data = text.encode()
        columns: dict[str, object] = {
            "size_bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "content": None,
            "object_key": None,
            "url": None,
            "moves_to_store": self._blobs is not None,
        }
        if self._blobs is not None and time.monotonic() >= self._store_rests_until:
            key = object_key(task_id, artifact_id)
            try:
                async with asyncio.timeout(PUT_TIMEOUT_SEC):
                    await self._blobs.put(key, data, content_type="text/plain; charset=utf-8")
            except (BloomError, TimeoutError) as error:
                self._store_rests_until = time.monotonic() + STORE_REST_SEC
                _log.warning(
                    "object store failed, outputs stay in the database", extra={"reason": type(error).__name__}
                )
            else:
                columns |= {
                    "place": Place.STORE,
                    "object_key": key,
                    "url": self._blobs.url(key),
                    "moves_to_store": False,
                }
                return Placement(columns, object_key=key)
        if len(data) <= INLINE_MAX_BYTES:
            return Placement(columns | {"place": Place.INLINE, "content": text})
        pieces = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
        return Placement(columns | {"place": Place.CHUNKS}, chunks=pieces)

    async def discard(self, placement: Placement) -> None:
        """Delete what `place` put into the object store for an artifact that was not made. Failures are logged only."""
        if placement.object_key is not None and self._blobs is not None:
            try:
                await self._blobs.delete(placement.object_key)
            except BloomError as error:
                _log.warning("an unused object stays in the store", extra={"code": error.code})

    async def get(self, artifact_id: ArtifactId) -> Artifact:
        """One artifact, its inline content whole. Raises NotFound."""
        async with self._database.transaction() as connection:
            found = await store.by_id(connection, artifact_id)
        if found is None:
            raise artifact_not_found(artifact_id)
        return found

    async def page(self, *, task_id: TaskId | None, before: int | None, limit: int) -> list[Artifact]:
        """Up to `limit` artifacts (of one task) older than the one with `seq` `before`, newest first, contents cut."""
        async with self._database.transaction() as connection:
            return await store.page(connection, task_id=task_id, before=before, limit=limit, cut=CUT_CHARS)

    async def content(self, artifact: Artifact) -> AsyncGenerator[bytes, None]:
        """The content in pieces, in bounded memory. Raises Upstream when the object store fails before the first piece."""
        if artifact.place is Place.INLINE:
            yield (artifact.content or "").encode()
        elif artifact.place is Place.STORE and artifact.object_key is not None:
            async for piece in self._store().stream(artifact.object_key):
                yield piece
        else:
            n = 0
            while (piece := await self._chunk(artifact.id, n)) is not None:
                yield piece
                n += 1

    async def presigned(self, artifact_id: ArtifactId) -> tuple[str, int]:
        """A link to the content that needs no key, and its end in epoch milliseconds.

        Raises NotFound, or Conflict (`not_in_object_store`) when the content stands in PostgreSQL.
        """
        artifact = await self.get(artifact_id)
        if artifact.place is not Place.STORE or artifact.object_key is None:
            raise _not_signable()
        expires_at = int((time.time() + PRESIGNED_SEC) * 1000)
        try:
            return await self._store().presign_get(artifact.object_key, expires_sec=PRESIGNED_SEC), expires_at
        except BlobError as error:
            if error.code == "presign_unsupported":
                raise _not_signable() from None
            raise

    async def move_to_store(self) -> int:
        """Move what was made while the object store was down; returns how many were moved. Stops quietly while it is down."""
        if self._blobs is None:
            return 0
        count = 0
        async with self._database.transaction() as connection:
            waiting = await store.to_move(connection, limit=MOVE_BATCH)
        for artifact in waiting:
            key = object_key(artifact.task_id, artifact.id)
            try:
                await self._blobs.put(key, self.content(artifact), content_type="text/plain; charset=utf-8")
            except BloomError as error:
                _log.info("object store still down", extra={"waiting": len(waiting), "code": error.code})
                break
            async with self._database.transaction() as connection:
                url = self._blobs.url(key)
                count += await store.moved(connection, artifact.id, object_key=key, url=url, cut=CUT_CHARS)
        if count:
            _log.info("outputs moved to the object store", extra={"count": count})
        return count

    async def _chunk(self, artifact_id: ArtifactId, n: int) -> bytes | None:
        async with self._database.transaction() as connection:
            return await store.chunk(connection, artifact_id, n)

    def _store(self) -> BlobStore:
        if self._blobs is None:
            raise Conflict(
                "This artifact is in an object store that is not configured here; set MINIO_ENDPOINT.",
                code="object_store_not_configured",
            )
        return self._blobs


def object_key(task_id: TaskId, artifact_id: ArtifactId) -> str:
    """The key of an artifact's content in the bucket."""
    return f"artifacts/{task_id}/{artifact_id}"
