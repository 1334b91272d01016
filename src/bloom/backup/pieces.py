"""Streams of bytes, cut anew."""

from collections.abc import AsyncGenerator, AsyncIterable

PIECE_BYTES = 1024 * 1024
"""As much of an archive is in memory at a time, a few times over."""


async def reblocked(stream: AsyncIterable[bytes], size: int) -> AsyncGenerator[bytes]:
    """The same bytes in pieces of exactly `size`, the last excepted, which is not empty."""
    held = bytearray()
    async for chunk in stream:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


async def marking_last(pieces: AsyncIterable[bytes]) -> AsyncGenerator[tuple[bytes, bool]]:
    """Each piece, and whether it is the last; an empty last one where there is none."""
    held: bytes | None = None
    async for piece in pieces:
        if held is not None:
            yield held, False
        held = piece
    yield held or b"", True
