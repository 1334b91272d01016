"""What all stores share: moving bytes through `obstore`, and saying what went wrong in our words."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from heapq import nsmallest

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, MemoryStore, S3Store

from bloom.blobs.errors import BlobChanged, BlobError, BlobMissing, BlobUnavailable
from bloom.blobs.interface import CHUNK_BYTES, StoredObject, check_key
from bloom.blobs.upload import UploadSource, take_first

# Parts of a multipart upload: S3 wants at least 5 MiB each; about four are in memory at a time.
PART_BYTES = 5 * 1024 * 1024
_PARTS_AT_ONCE = 3
_ABORT_SEC = 5.0
_LIST_BATCH = 1000


class TransferStore:
    """A blob store over one of `obstore`'s. `interface.BlobStore` says what each method does."""

    scheme = ""
    _takes_content_type = True
    _lists_by_key = False
    _refusal = "The object store refuses access"

    def __init__(self, store: S3Store | LocalStore | MemoryStore) -> None:
        self._store = store

    async def put(self, key: str, data: bytes | AsyncIterator[bytes], *, content_type: str | None = None) -> None:
        """See BlobStore.put."""
        check_key(key)
        content_type = content_type if self._takes_content_type else None
        if isinstance(data, bytes):
            await self._put_bytes(key, data, content_type)
            return
        try:
            first, whole = await take_first(data, PART_BYTES)
            if whole:
                await self._put_bytes(key, first, content_type)
            else:
                await self._put_parts(key, UploadSource(first, data), content_type)
        finally:
            if (close := getattr(data, "aclose", None)) is not None:
                await close()

    async def _put_bytes(self, key: str, data: bytes, content_type: str | None) -> None:
        with self._errors(missing="The object store does not take the object"):
            await self._send(key, data, content_type)

    async def _put_parts(self, key: str, source: UploadSource, content_type: str | None) -> None:
        sending = asyncio.ensure_future(self._send(key, source, content_type))
        # Its error is looked at below, except when this is cancelled.
        sending.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.wait((sending,))
        finally:
            # When this is cancelled: the source fails, and obstore takes back what it has sent.
            source.abandon()
            await asyncio.wait((sending,), timeout=_ABORT_SEC)
        if source.error is not None:
            raise source.error
        with self._errors(missing="The object store does not take the object"):
            sending.result()

    async def _send(self, key: str, data: bytes | UploadSource, content_type: str | None) -> None:
        await obstore.put_async(
            self._store,
            key,
            data,
            attributes=None if content_type is None else {"Content-Type": content_type},
            chunk_size=PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
        )

    async def get(self, key: str) -> bytes:
        """See BlobStore.get."""
        check_key(key)
        with self._errors():
            return bytes(await (await obstore.get_async(self._store, key)).bytes_async())

    async def read(self, key: str) -> tuple[bytes, str]:
        """See BlobStore.read."""
        check_key(key)
        with self._errors():
            answer = await obstore.get_async(self._store, key)
            return bytes(await answer.bytes_async()), answer.meta["e_tag"] or ""

    async def tag(self, key: str) -> str:
        """See BlobStore.tag."""
        check_key(key)
        with self._errors():
            return (await obstore.head_async(self._store, key))["e_tag"] or ""

    async def put_if(self, key: str, data: bytes, *, tag: str | None) -> None:
        """See BlobStore.put_if."""
        check_key(key)
        with self._errors(missing="The object store does not take the object"):
            try:
                await self._send_if(key, data, tag)
            except (AlreadyExistsError, PreconditionError):
                # A request that was repeated after a lost answer meets its own first write.
                if await obstore_bytes(self._store, key) != data:
                    raise BlobChanged("The object in the store is not the expected one any more") from None

    async def _send_if(self, key: str, data: bytes, tag: str | None) -> None:
        await obstore.put_async(
            self._store, key, data, mode="create" if tag is None else {"e_tag": tag}, use_multipart=False
        )

    def stream(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
        """See BlobStore.stream."""
        check_key(key)
        return self._stream(key, chunk_bytes)

    async def _stream(self, key: str, chunk_bytes: int) -> AsyncGenerator[bytes]:
        with self._errors():
            chunks = (await obstore.get_async(self._store, key)).stream(min_chunk_size=chunk_bytes)
        while True:
            with self._errors():
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def delete(self, key: str) -> None:
        """See BlobStore.delete."""
        check_key(key)
        try:
            with self._errors():
                await obstore.delete_async(self._store, key)
        except BlobMissing:
            return

    async def exists(self, key: str) -> bool:
        """See BlobStore.exists."""
        try:
            await self.size(key)
        except BlobMissing:
            return False
        return True

    async def size(self, key: str) -> int:
        """See BlobStore.size."""
        check_key(key)
        with self._errors():
            return (await obstore.head_async(self._store, key))["size"]

    async def page(self, prefix: str, *, after: str | None, limit: int) -> Sequence[StoredObject]:
        """See BlobStore.page."""
        check_key(prefix)
        found: list[StoredObject] = []
        listing = obstore.list(self._store, prefix, offset=after, chunk_size=_LIST_BATCH)  # pyright: ignore[reportUnknownMemberType]
        with self._errors():
            async for batch in listing:
                found += [StoredObject(each["path"], each["size"], each["last_modified"]) for each in batch]
                found = nsmallest(limit, found, key=lambda each: each.key)
                if self._lists_by_key and len(found) == limit:
                    break
        return found

    async def presign_get(self, key: str, *, expires_sec: int) -> str:
        """Always raises BlobError: only an S3 store has such URLs."""
        raise BlobError("This object store has no links of its own", code="presign_unsupported")

    def url(self, key: str) -> str:
        """See BlobStore.url."""
        check_key(key)
        return f"{self.scheme}://blobs/{key}"

    async def check(self) -> None:
        """See BlobStore.check."""
        key = f"bloom-check/{secrets.token_hex(8)}"
        await self.put(key, b"bloom")
        await self.delete(key)

    @contextmanager
    def _errors(self, *, missing: str | None = None) -> Generator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if missing is not None:
                raise BlobUnavailable(missing) from error
            raise BlobMissing("There is no such object in the store") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise BlobUnavailable(self._refusal) from error
        except (BaseError, OSError) as error:
            raise BlobUnavailable("The object store does not answer, or fails") from error


async def obstore_bytes(store: S3Store | LocalStore | MemoryStore, key: str) -> bytes | None:
    """The object as it is, None where there is none. Raises the errors of `obstore`."""
    try:
        return bytes(await (await obstore.get_async(store, key)).bytes_async())
    except FileNotFoundError:
        return None
