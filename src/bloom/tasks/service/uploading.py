"""Uploading a large output before its completion: piece by piece, each committed, so that any replica can go on after a cut."""

import codecs
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from bloom.artifacts.model import CHUNK_BYTES
from bloom.base.errors import BloomError, TooLarge
from bloom.base.ids import ArtifactId, LeaseId, TaskId, WorkerId, new_artifact_id
from bloom.db.hub import notify, task_topic
from bloom.db.pool import Connection, Database
from bloom.tasks.service import refusals
from bloom.tasks.service.holding import lease_refusal
from bloom.tasks.store import leases, uploads
from bloom.tasks.store.uploads import OpenUpload, Piece
from bloom.workers.service import SignsOfLife

HEARD_EVERY_SEC = 10.0
"""A worker counts as silent after a minute; noting a sign of life is a transaction of its own."""

SWEEP_BATCH = 20
_MOST_DIGESTS = 256


@dataclass(frozen=True, slots=True)
class UploadCall:
    """A wish to go on with the output of a lease at `offset`, or to begin anew. `announced`: bytes to come, if known.
    `worker_id`, if given, must hold the lease.
    """

    task_id: TaskId
    lease_id: LeaseId
    offset: int
    restart: bool = False
    announced: int | None = None
    worker_id: WorkerId | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """How much there is, under which name a completion refers to it, and whether a person asked for the task's end."""

    output_ref: ArtifactId | None
    received: int
    cancel: bool = False


class _Digest:
    """The SHA-256 of an upload from its first byte."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.size = 0

    def add(self, data: bytes) -> str:
        """The digest, in hex, with `data` at the end."""
        self._sha256.update(data)
        self.size += len(data)
        return self._sha256.hexdigest()


class _Growing:
    """One request's view of an upload: where its next piece goes."""

    def __init__(self, call: UploadCall, found: OpenUpload, digest: _Digest | None) -> None:
        self.call = call
        self.id = found.id
        self.received = found.received
        self.unfinished = found.unfinished
        self.digest = digest
        self.cancel = False
        self.heard_at = float("-inf")


class UploadService:
    """Receives large outputs."""

    def __init__(self, database: Database, signs: SignsOfLife, *, max_bytes: int) -> None:
        self._database = database
        self._signs = signs
        self._max_bytes = max_bytes
        # Of uploads that went through this process from their beginning; without one the completion reads all of it.
        self._digests: OrderedDict[ArtifactId, _Digest] = OrderedDict()

    async def look(self, task_id: TaskId, lease_id: LeaseId) -> Received:
        """How much of the output of a lease there is. Raises NotFound for an unknown task."""
        async with self._database.transaction() as connection:
            found = await uploads.by_lease(connection, task_id, lease_id)
            if found is not None:
                return Received(found.id, found.received)
            if not await leases.task_states(connection, [task_id]):
                raise refusals.task_not_found(task_id)
        return Received(None, 0)

    async def receive(self, call: UploadCall, pieces: AsyncIterator[bytes]) -> Received:
        """Append what comes to the output of a current lease, in bounded memory, and renew the lease with each piece. What
        came before `pieces` breaks off is kept; what they raise is raised.

        Raises NotFound; Conflict: `lease_lost`, `cancelled`, or `offset_mismatch` (with `received`) when the offset is not
        what was received; InvalidInput (`invalid_output`) for what is not UTF-8 text without NUL; TooLarge.
        """
        self._check_size(call.offset + (call.announced or 0))
        growing = await self._open(call)
        async for data in _in_chunks(pieces):
            self._check_size(growing.received + len(data))
            await self._append(growing, data)
        return Received(growing.id, growing.received, growing.cancel)

    async def sweep(self) -> int:
        """Forget uploads that nobody completed; returns how many."""
        async with self._database.transaction() as connection:
            return await uploads.sweep(connection, limit=SWEEP_BATCH, now=self._database.now)

    async def _open(self, call: UploadCall) -> _Growing:
        async with self._database.transaction() as connection:
            await leases.lock_tasks(connection, [call.task_id])
            if (refusal := await _refusal(connection, call)) is not None:
                raise refusal
            if call.restart:
                await uploads.remove(connection, call.task_id, call.lease_id)
            await uploads.open_upload(connection, call.task_id, call.lease_id, new_artifact_id())
            found = await uploads.by_lease(connection, call.task_id, call.lease_id)
            if found is None:
                raise refusals.lease_lost()
            if found.received != call.offset:
                raise refusals.offset_mismatch(found.received, found.id)
            digest = self._digests.pop(found.id, None) if found.received else _Digest()
            growing = _Growing(call, found, digest if digest is not None and digest.size == found.received else None)
            worker_id = await self._renew(connection, growing)
        await self._heard(growing, worker_id)
        return growing

    async def _append(self, growing: _Growing, data: bytes) -> None:
        call, digest, growing.digest = growing.call, growing.digest, None
        unfinished = _unfinished(growing.unfinished, data)
        sha256 = None if digest is None else digest.add(data)
        async with self._database.transaction() as connection:
            await leases.lock_tasks(connection, [call.task_id])
            piece = Piece(growing.id, growing.received, data, unfinished, sha256)
            if not await uploads.append(connection, piece, now=self._database.now):
                found = await uploads.by_lease(connection, call.task_id, call.lease_id)
                refusal = await _refusal(connection, call)
                if refusal is None and found is not None:
                    refusal = refusals.offset_mismatch(found.received, found.id)
                raise refusal or refusals.lease_lost()
            worker_id = await self._renew(connection, growing)
        growing.received += len(data)
        growing.unfinished = unfinished
        if digest is not None:
            growing.digest = digest
            self._remember(growing.id, digest)
        await self._heard(growing, worker_id)

    async def _renew(self, connection: Connection, growing: _Growing) -> WorkerId | None:
        """Prolong the lease, unless it is past its end and only waits for the reaper. Its worker."""
        call = growing.call
        extended = (await leases.extend_many(connection, [(call.lease_id, None)], now=self._database.now)).get(
            call.lease_id
        )
        if extended is None:
            return None
        growing.cancel = extended.cancel_asked
        if extended.was_leased:
            await notify(connection, [task_topic(call.task_id)])
        return extended.lease.worker_id

    async def _heard(self, growing: _Growing, worker_id: WorkerId | None) -> None:
        if worker_id is None or time.monotonic() < growing.heard_at + HEARD_EVERY_SEC:
            return
        growing.heard_at = time.monotonic()
        await self._signs.note([worker_id])

    def _remember(self, upload_id: ArtifactId, digest: _Digest) -> None:
        self._digests[upload_id] = digest
        self._digests.move_to_end(upload_id)
        if len(self._digests) > _MOST_DIGESTS:
            self._digests.popitem(last=False)

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLarge(f"The output is over the limit of {self._max_bytes} bytes", limit_bytes=self._max_bytes)


async def _refusal(connection: Connection, call: UploadCall) -> BloomError | None:
    state = (await leases.task_states(connection, [call.task_id])).get(call.task_id)
    refusal = lease_refusal(call.task_id, call.lease_id, state)
    if refusal is None and state is not None and call.worker_id not in (None, state.worker_id):
        return refusals.lease_lost()
    return refusal


async def _in_chunks(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """`pieces` joined to chunks; where they break off, what there is comes before their error."""
    waiting = bytearray()
    broken: Exception | None = None
    try:
        async for piece in pieces:
            waiting += piece
            while len(waiting) >= CHUNK_BYTES:
                yield bytes(waiting[:CHUNK_BYTES])
                del waiting[:CHUNK_BYTES]
    except Exception as error:  # noqa: BLE001 - raised below
        broken = error
    if waiting:
        yield bytes(waiting)
    if broken is not None:
        raise broken


def _unfinished(before: bytes, data: bytes) -> bytes:
    """The beginning of a character at the end of `before` and `data`. Raises InvalidInput for what cannot be stored as text."""
    text = before + data
    try:
        used = codecs.utf_8_decode(text, "strict", False)[1]
    except UnicodeDecodeError:
        raise refusals.invalid_output() from None
    if b"\0" in data:
        raise refusals.invalid_output()
    return text[used:]
