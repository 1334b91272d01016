"""The form of an archive, version 1.

    first line   JSON: what this is, its version, when and by which release it was made, the revision of its schema, and the
                 salt of its encryption
    body         a tar file (ustar), compressed (gzip), then encrypted if there is a salt
    last 32 B    SHA-256 of everything before

In the tar each member is a directory: `meta.json`, `data.000000` and on, and `sha256`, the digest of its data. Whatever the
size of a member, nobody has to know it before the end, and nobody holds more of it than a piece.
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bloom.backup.errors import BackupDamaged, BackupLocked, BackupTooNew
from bloom.backup.pieces import PIECE_BYTES, reblocked
from bloom.backup.sealing import sealed, unsealed

VERSION = 1
_FORMAT = "bloom-backup"
_LONGEST_HEAD = 4096
_DIGEST_BYTES = 32
_BLOCK = tarfile.BLOCKSIZE
_LEVEL = 3  # of zlib: a small board has to keep up with its disk
_GZIP = 31  # zlib's window bits for a gzip header


@dataclass(frozen=True, slots=True)
class Head:
    """The first line, readable without the passphrase."""

    made_at: datetime
    release: str
    revision: str
    salt: bytes | None

    def line(self) -> bytes:
        """As it stands in the archive."""
        said = {
            "format": _FORMAT,
            "version": VERSION,
            "made_at": self.made_at.isoformat(),
            "release": self.release,
            "revision": self.revision,
            "salt": None if self.salt is None else self.salt.hex(),
        }
        return json.dumps(said).encode() + b"\n"

    @staticmethod
    def parse(line: bytes) -> "Head":
        """Raises BackupDamaged for what is no archive, BackupTooNew for one of a form that this release does not know."""
        try:
            said = json.loads(line)
            if said["format"] != _FORMAT:
                raise ValueError
            if said["version"] != VERSION:
                raise BackupTooNew(
                    f"The archive has version {said['version']} of its form; this release reads version {VERSION}."
                )
            made_at, salt = datetime.fromisoformat(said["made_at"]), said["salt"]
            return Head(made_at, said["release"], said["revision"], None if salt is None else bytes.fromhex(salt))
        except (ValueError, TypeError, KeyError):
            raise BackupDamaged("This is no archive of `bloom backup create`, or its beginning is damaged.") from None


@dataclass(frozen=True, slots=True)
class Member:
    """One thing in an archive. `data` can be read once, before the next member is asked for."""

    name: str
    meta: Mapping[str, Any]
    data: AsyncIterator[bytes]


async def write_archive(head: Head, passphrase: str | None, members: AsyncIterable[Member]) -> AsyncGenerator[bytes]:
    """The bytes of the archive. `passphrase` goes with the salt of `head`."""
    line = head.line()
    digest = hashlib.sha256(line)
    yield line
    body = _compressed(_tar(members, int(head.made_at.timestamp())))
    if head.salt is not None and passphrase is not None:
        body = sealed(body, passphrase, head.salt, line)
    async for chunk in body:
        digest.update(chunk)
        yield chunk
    yield digest.digest()


class ArchiveReader:
    """Reads an archive from front to back. All that is wrong with it is found at the latest by the end of `members`."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._line = b""
        self._rest = b""

    async def head(self) -> Head:
        """The first line; call it first. Raises BackupDamaged, BackupTooNew."""
        held = b""
        while b"\n" not in held and len(held) < _LONGEST_HEAD:
            chunk = await anext(self._stream, b"")
            if not chunk:
                break
            held += chunk
        line, newline, self._rest = held.partition(b"\n")
        self._line = line + newline
        self._digest.update(self._line)
        return Head.parse(line)

    async def members(self, head: Head, passphrase: str | None) -> AsyncGenerator[Member]:
        """The members in their order; what was not read of one is skipped, but checked.

        Raises BackupLocked for a passphrase that is missing or wrong, BackupDamaged for whatever else is not as written.
        """
        body: AsyncIterable[bytes] = self._body()
        if head.salt is not None:
            if passphrase is None:
                raise BackupLocked(
                    "The archive is encrypted: set BLOOM_BACKUP_PASSPHRASE or BLOOM_BACKUP_PASSPHRASE_FILE."
                )
            body = unsealed(body, passphrase, head.salt, self._line)
        tar = _TarReader(_decompressed(body))
        while (name := await tar.next_name()) is not None:
            if not name.endswith("/meta.json"):
                raise _damaged()
            try:
                meta = json.loads(await tar.content())
            except ValueError:
                raise _damaged() from None
            member = name.removesuffix("/meta.json")
            data = self._data(tar, member)
            yield Member(member, meta, data)
            async for _ in data:
                pass
        await tar.end()

    async def _data(self, tar: "_TarReader", member: str) -> AsyncGenerator[bytes]:
        digest = hashlib.sha256()
        while (name := await tar.next_name()) is not None and name.startswith(f"{member}/data."):
            piece = await tar.content()
            digest.update(piece)
            yield piece
        if name != f"{member}/sha256" or await tar.content() != digest.hexdigest().encode():
            raise _damaged()

    async def _body(self) -> AsyncGenerator[bytes]:
        held, self._rest = self._rest, b""
        while True:
            if len(held) > _DIGEST_BYTES:
                chunk, held = held[:-_DIGEST_BYTES], held[-_DIGEST_BYTES:]
                self._digest.update(chunk)
                yield chunk
            more = await anext(self._stream, b"")
            if not more:
                break
            held += more
        if held != self._digest.digest():
            raise _damaged()


def _damaged() -> BackupDamaged:
    return BackupDamaged("The archive is damaged: it was cut short or changed. Take another one.")


async def _compressed(stream: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
    async for chunk in stream:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


async def _decompressed(stream: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    unpacker = zlib.decompressobj(wbits=_GZIP)
    try:
        async for chunk in stream:
            while chunk and not unpacker.eof:
                yield unpacker.decompress(chunk, PIECE_BYTES)
                chunk = unpacker.unconsumed_tail
            if unpacker.unused_data:
                raise _damaged()
    except zlib.error:
        raise _damaged() from None
    if not unpacker.eof:
        raise _damaged()


async def _tar(members: AsyncIterable[Member], made_at: int) -> AsyncGenerator[bytes]:
    def entry(name: str, content: bytes) -> bytes:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(content), made_at, 0o600
        return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % _BLOCK)

    async for member in members:
        yield entry(f"{member.name}/meta.json", json.dumps(member.meta).encode())
        digest = hashlib.sha256()
        number = 0
        async for piece in reblocked(member.data, PIECE_BYTES):
            digest.update(piece)
            yield entry(f"{member.name}/data.{number:06}", piece)
            number += 1
        yield entry(f"{member.name}/sha256", digest.hexdigest().encode())
    yield bytes(2 * _BLOCK)


class _TarReader:
    """Reads entry after entry; `content` once after each name."""

    def __init__(self, stream: AsyncGenerator[bytes]) -> None:
        self._stream = stream
        self._held = bytearray()
        self._name: str | None = None
        self._size = 0

    async def next_name(self) -> str | None:
        """The name of the entry at hand, None at the end of the tar."""
        if self._name is None:
            block = await self._take(_BLOCK)
            if block == bytes(_BLOCK):
                return None
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.TarError, ValueError):
                raise _damaged() from None
            if info.size > PIECE_BYTES or not info.isreg():
                raise _damaged()
            self._name, self._size = info.name, info.size
        return self._name

    async def content(self) -> bytes:
        """What the entry at hand holds; then the next one is at hand."""
        content = await self._take(self._size + -self._size % _BLOCK)
        self._name = None
        return content[: self._size]

    async def end(self) -> None:
        """Read what is behind the last entry: so everything below is read to its end, and checked."""
        async for chunk in self._stream:
            if chunk.strip(b"\0"):
                raise _damaged()

    async def _take(self, count: int) -> bytes:
        while len(self._held) < count:
            chunk = await anext(self._stream, None)
            if chunk is None:
                raise _damaged()
            self._held += chunk
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken
