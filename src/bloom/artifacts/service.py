"""Where outputs go and how they are read back."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

from bloom.artifacts import store
from bloom.artifacts.model import (
    CHUNK_BYTES,
    INLINE_MAX_BYTES,
    PREVIEW_BYTES,
    Artifact,
    Place,
    Placement,
    Upload,
)
from bloom.base.errors import BloomError, Conflict, NotFound, Upstream
from bloom.base.ids import ArtifactId, TaskId, made_at
from bloom.blobs.errors import BlobError
from bloom.blobs.interface import BlobStore
from bloom.db.pool import Database
from bloom.telemetry.metrics import STORE_WRITES

CUT_CHARS = 64 * 1024
"""Longer contents are cut in lists (wire contract, "Artifacts")."""

PRESIGNED_SEC = 3600

PUT_TIMEOUT_SEC = 10.0
CHECK_TIMEOUT_SEC = 3.0
"""Somebody looks at a page meanwhile."""

STORE_REST_SEC = 15.0
"""After a failure the store is not asked again for so long, so that a hanging one does not hold up every completion."""

MOVE_BATCH = 20

OBJECTS = "artifacts"
"""Outputs lie below this prefix in the object store."""

ORPHAN_AGE = timedelta(hours=1)
SWEEP_BATCH = 1000

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
        self._swept_to: str | None = None

    @property
    def has_store(self) -> bool:
        """Whether outputs go to an object store."""
        return self._blobs is not None

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
                STORE_WRITES.labels("failed").inc()
                _log.warning(
                    "object store failed, outputs stay in the database", extra={"reason": type(error).__name__}
                )
            else:
                STORE_WRITES.labels("ok").inc()
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

    async def place_upload(
        self, task_id: TaskId, upload_id: ArtifactId, *, size_bytes: int, sha256: str
    ) -> Placement | None:
        """Where an output of the task stands that was uploaded before: in its chunks, or inline where it is small. None when
        it is not there, not whole, or not of this size and digest. Reads all of it where its digest is not known yet.
        """
        async with self._database.transaction() as connection:
            found = await store.upload(connection, upload_id)
        if found is None or found.task_id != task_id or found.received != size_bytes or not found.whole:
            return None
        if sha256 != (found.sha256 or await self._take_digest(found)):
            return None
        inline = size_bytes <= INLINE_MAX_BYTES
        beginning = await self._beginning(upload_id)
        columns: dict[str, object] = {
            "size_bytes": size_bytes,
            "sha256": sha256,
            "place": Place.INLINE if inline else Place.CHUNKS,
            "content": beginning if inline else None,
            "object_key": None,
            "url": None,
            "moves_to_store": self._blobs is not None,
            "uploaded": True,
        }
        return Placement(columns, preview=beginning)

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

    async def page(
        self, *, task_id: TaskId | None, before: int | None, limit: int, cut: int = CUT_CHARS
    ) -> list[Artifact]:
        """Up to `limit` artifacts (of one task) older than the one with `seq` `before`, newest first, contents cut."""
        async with self._database.transaction() as connection:
            return await store.page(connection, task_id=task_id, before=before, limit=limit, cut=cut)

    async def beginning(self, artifact: Artifact, *, most: int) -> str:
        """Up to `most` bytes of the content as text. Raises Upstream as `content` does."""
        data = await _first(self.content(artifact), most)
        # A character that is cut in two is left out.
        return data.decode("utf-8", "ignore" if artifact.size_bytes > most else "replace")

    async def store_answers(self) -> tuple[str | None, bool]:
        """The kind of object store that is set (`minio`, `file`; None: none), and whether it takes a write at this moment."""
        if self._blobs is None:
            return None, False
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SEC):
                await self._blobs.check()
        except (BloomError, TimeoutError):
            return self._blobs.scheme, False
        return self._blobs.scheme, True

    async def content(self, artifact: Artifact) -> AsyncGenerator[bytes, None]:
        """The content in pieces, in bounded memory. Raises Upstream when the object store fails before the first piece, or
        when there is less than there should be.
        """
        if artifact.place is Place.INLINE:
            yield (artifact.content or "").encode()
            return
        sent = 0
        if artifact.place is Place.CHUNKS:
            async for piece in self._chunks(artifact.id):
                yield piece
                sent += len(piece)
            if sent == artifact.size_bytes:
                return
            # It was moved to the object store meanwhile.
            artifact = await self.get(artifact.id)
        if artifact.object_key is None:
            raise Upstream("The content of this artifact is not whole.", code="content_incomplete")
        async for piece in self._store().stream(artifact.object_key):
            skipped = min(sent, len(piece))
            sent -= skipped
            if skipped < len(piece):
                yield piece[skipped:]

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
        while waiting := await self._waiting_for_store():
            for artifact in waiting:
                key = object_key(artifact.task_id, artifact.id)
                try:
                    await self._blobs.put(key, self.content(artifact), content_type=artifact.content_type)
                except BloomError as error:
                    STORE_WRITES.labels("failed").inc()
                    _log.info("object store still down", extra={"moved": count, "code": error.code})
                    return count
                STORE_WRITES.labels("ok").inc()
                async with self._database.transaction() as connection:
                    url = self._blobs.url(key)
                    count += await store.moved(connection, artifact.id, object_key=key, url=url, cut=CUT_CHARS)
        if count:
            _log.info("outputs moved to the object store", extra={"count": count})
        return count

    async def _waiting_for_store(self) -> list[Artifact]:
        async with self._database.transaction() as connection:
            return await store.to_move(connection, limit=MOVE_BATCH)

    async def sweep_store(self) -> int:
        """Delete objects whose completion never came or was refused, of the next 1,000 in the store; returns how many. Only
        objects of tasks that this database knows, older than an hour by the store's clock and by ours.
        """
        if self._blobs is None:
            return 0
        try:
            listed = await self._blobs.page(OBJECTS, after=self._swept_to, limit=SWEEP_BATCH)
        except BlobError as error:
            _log.info("object store could not be listed", extra={"code": error.code})
            return 0
        self._swept_to = listed[-1].key if len(listed) == SWEEP_BATCH else None
        before = datetime.now(UTC) - ORPHAN_AGE
        old: list[tuple[str, TaskId, ArtifactId]] = []
        for found in listed:
            task_id, _, artifact_id = found.key.removeprefix(f"{OBJECTS}/").partition("/")
            made = made_at(artifact_id)
            if found.modified < before and made is not None and made < before:
                old.append((found.key, TaskId(task_id), ArtifactId(artifact_id)))
        if not old:
            return 0
        async with self._database.transaction() as connection:
            orphans = await store.orphans(connection, old)
        for key in orphans:
            await self._blobs.delete(key)
        if orphans:
            _log.info("unused objects deleted from the store", extra={"count": len(orphans)})
        return len(orphans)

    async def delete_pruned(self) -> int:
        """Delete what pruned tasks left in the object store; returns how many objects. While the store is away, or none is
        set, they stay on the list.
        """
        count = 0
        while self._blobs is not None:
            async with self._database.transaction() as connection:
                keys = await store.pruned(connection, limit=SWEEP_BATCH)
            if not keys:
                break
            try:
                for key in keys:
                    await self._blobs.delete(key)
            except BlobError as error:
                _log.info("object store down, objects of pruned tasks wait", extra={"code": error.code})
                break
            async with self._database.transaction() as connection:
                await store.forget_pruned(connection, keys)
            count += len(keys)
        return count

    async def _take_digest(self, found: Upload) -> str:
        digest = hashlib.sha256()
        async for piece in self._chunks(found.id):
            digest.update(piece)
        async with self._database.transaction() as connection:
            await store.note_digest(connection, found, digest.hexdigest())
        return digest.hexdigest()

    async def _beginning(self, upload_id: ArtifactId) -> str:
        """The first 1 MiB of an upload, less a character that is cut there."""
        return (await _first(self._chunks(upload_id), PREVIEW_BYTES)).decode(errors="ignore")

    async def _chunks(self, artifact_id: ArtifactId) -> AsyncGenerator[bytes, None]:
        n = 0
        while (piece := await self._chunk(artifact_id, n)) is not None:
            yield piece
            n += 1

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


async def _first(pieces: AsyncGenerator[bytes, None], most: int) -> bytes:
    """Up to `most` bytes of `pieces`, which are closed then."""
    taken = bytearray()
    async with aclosing(pieces):
        async for piece in pieces:
            taken += piece
            if len(taken) >= most:
                break
    return bytes(taken[:most])


def object_key(task_id: TaskId, artifact_id: ArtifactId) -> str:
    """The key of an artifact's content in the bucket."""
    return f"{OBJECTS}/{task_id}/{artifact_id}"
