"""The chunks of an upload on their way into `obstore`, so that an upload that is given up is taken back there."""

import asyncio
from collections.abc import AsyncIterator


class UploadSource:
    """An iterator of `first` and then `chunks` that can be made to fail from outside.

    `obstore` aborts a multipart upload whose source fails. Cancelling its call aborts nothing: the parts already sent
    would stay in the store, unseen and paid for.
    """

    def __init__(self, first: bytes, chunks: AsyncIterator[bytes]) -> None:
        self._first = first
        self._chunks = chunks
        self._upcoming: asyncio.Future[bytes] | None = None
        self._abandoned = False
        self.begun = False
        """Whether anything was read: then the upload cannot be repeated."""
        self.error: BaseException | None = None
        """What the chunks raised, if they did."""

    def __aiter__(self) -> "UploadSource":
        return self

    async def __anext__(self) -> bytes:
        self.begun = True
        if self._abandoned:
            raise RuntimeError("upload abandoned")
        if self._first:
            first, self._first = self._first, b""
            return first
        self._upcoming = asyncio.ensure_future(anext(self._chunks))
        try:
            return await self._upcoming
        except StopAsyncIteration:
            raise
        except asyncio.CancelledError:
            raise RuntimeError("upload abandoned") from None
        except BaseException as error:
            self.error = error
            raise

    def abandon(self) -> None:
        """Make the read that is under way, or the next one, fail."""
        self._abandoned = True
        if self._upcoming is not None:
            self._upcoming.cancel()


async def take_first(chunks: AsyncIterator[bytes], most_bytes: int) -> tuple[bytes, bool]:
    """Chunks until there are more than `most_bytes` bytes, joined, and whether that was all there is."""
    taken = bytearray()
    async for chunk in chunks:
        taken += chunk
        if len(taken) > most_bytes:
            return bytes(taken), False
    return bytes(taken), True
