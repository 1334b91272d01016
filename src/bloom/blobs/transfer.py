"""What all stores share: moving bytes through `obstore`, and saying what went wrong in our words."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, MemoryStore, S3Store

from bloom.blobs.errors import BlobError, BlobMissing, BlobUnavailable
from bloom.blobs.interface import CHUNK_BYTES, check_key

AnyStore = S3Store | LocalStore | MemoryStore

# Parts of a multipart upload: S3 wants at least 5 MiB each; four are in memory at a time.
_PART_BYTES = 5 * 1024 * 1024
_PARTS_AT_ONCE = 3
_ABORT_SEC = 5.0


class TransferStore:
    """A blob store over one of `obstore`'s. See `interface.BlobStore` for what each method does."""

    scheme = ""
    _takes_content_type = True
    _refusal = "The object store refuses access"

    def __init__(self, store: AnyStore) -> None:
        self._store = store

    async def put(self, key: str, data: bytes | AsyncIterator[bytes], *, content_type: str | None = None) -> None:
        """See BlobStore.put."""
        check_key(key)
        typed = content_type if self._takes_content_type else None
        if isinstance(data, bytes):
            async with self._errors():
                await self._send(key, data, typed)
            return
        source = _Source(data)
        sending = asyncio.ensure_future(self._send(key, source, typed))
        try:
            async with self._errors(source):
                await asyncio.shield(sending)
        except asyncio.CancelledError:
            # obstore takes back the parts it has sent when the source fails, not when it is cancelled itself.
            source.abandon()
            await asyncio.wait((sending,), timeout=_ABORT_SEC)
            raise
        finally:
            if sending.done() and not sending.cancelled():
                sending.exception()
            await source.close()

    async def _send(self, key: str, data: "bytes | _Source", content_type: str | None) -> None:
        await obstore.put_async(
            self._store,
            key,
            data if isinstance(data, bytes) else aiter(data),
            attributes=None if content_type is None else {"Content-Type": content_type},
            chunk_size=_PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
        )

    async def get(self, key: str) -> bytes:
        """See BlobStore.get."""
        check_key(key)
        async with self._errors():
            return bytes(await (await obstore.get_async(self._store, key)).bytes_async())

    def stream(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
        """See BlobStore.stream."""
        check_key(key)
        return self._stream(key, chunk_bytes)

    async def _stream(self, key: str, chunk_bytes: int) -> AsyncGenerator[bytes]:
        async with self._errors():
            chunks = (await obstore.get_async(self._store, key)).stream(min_chunk_size=chunk_bytes)
        while True:
            async with self._errors():
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def delete(self, key: str) -> None:
        """See BlobStore.delete."""
        check_key(key)
        try:
            async with self._errors():
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
        async with self._errors():
            return (await obstore.head_async(self._store, key))["size"]

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

    @asynccontextmanager
    async def _errors(self, source: "_Source | None" = None) -> AsyncGenerator[None]:
        try:
            yield
        except FileNotFoundError:
            raise BlobMissing("There is no such object in the store") from None
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise BlobUnavailable(self._refusal) from error
        except (BaseError, OSError) as error:
            if source is not None and source.error is error:
                raise
            raise BlobUnavailable("The object store does not answer or fails") from error


class _Source:
    """The chunks of an upload, with a way to make them fail from outside."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._abandoned = asyncio.Event()
        self.error: BaseException | None = None
        self.begun = False

    def abandon(self) -> None:
        """Let whoever reads this fail at its next read, or at the one it waits for."""
        self._abandoned.set()

    async def close(self) -> None:
        """Close the chunks, if they can be closed."""
        if (close := getattr(self._chunks, "aclose", None)) is not None:
            await close()

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        self.begun = True
        abandoned = asyncio.ensure_future(self._abandoned.wait())
        try:
            while True:
                upcoming = asyncio.ensure_future(anext(self._chunks))
                await asyncio.wait((upcoming, abandoned), return_when=asyncio.FIRST_COMPLETED)
                if not upcoming.done():
                    upcoming.cancel()
                    await asyncio.gather(upcoming, return_exceptions=True)
                    raise RuntimeError("upload abandoned")
                try:
                    chunk = upcoming.result()
                except StopAsyncIteration:
                    return
                except BaseException as error:
                    self.error = error
                    raise
                yield chunk
        finally:
            abandoned.cancel()
