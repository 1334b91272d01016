"""Making an archive: one snapshot of the database, and the objects that it knows."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row

from bloom import __version__
from bloom.backup import tables
from bloom.backup.archive import Head, Member, write_archive
from bloom.backup.pieces import PIECE_BYTES
from bloom.backup.sealing import new_salt
from bloom.base.errors import ConfigurationError
from bloom.blobs.errors import BlobMissing
from bloom.blobs.interface import BlobStore, StoredObject, all_objects
from bloom.db.pool import CONNECT_TIMEOUT_SEC, Connection, database_unavailable

MEMORY = "projects"
"""Below it lie the projects' memories in their bucket (wire contract, section 2.3)."""

_ROUNDS = 5
_MISSING_NAMED = 5


@dataclass(frozen=True, slots=True)
class Wanted:
    """What goes into an archive besides the database.

    `contents`: of artifacts in the object store `objects`, too; without them the artifacts' table alone tells of them.
    `files` by the names that they have in the archive, below `files/`.
    """

    contents: bool
    objects: BlobStore | None
    memory: BlobStore | None
    files: Mapping[str, Path]


@dataclass(slots=True)
class Summary:
    """What an archive holds; its last member."""

    tables: dict[str, int] = field(default_factory=dict[str, int])
    objects: int = 0
    object_bytes: int = 0
    missing_objects: int = 0
    missing: list[str] = field(default_factory=list[str])
    memory_objects: int = 0
    files: list[str] = field(default_factory=list[str])

    def as_meta(self) -> dict[str, Any]:
        """In the form of JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


class Creation:
    """One archive that is being made; `summary` is whole at the end of `stream`."""

    def __init__(self, database_url: str, wanted: Wanted, passphrase: str | None) -> None:
        self._url = database_url
        self._wanted = wanted
        self._passphrase = passphrase
        self.made_at = datetime.now(UTC)
        self.summary = Summary()

    async def stream(self) -> AsyncGenerator[bytes]:
        """The bytes of the archive. Others may go on meanwhile: the tables are read in one snapshot, and the objects that it
        knows are kept until the end.

        Raises ConfigurationError when artifacts are in an object store that is not set; Unavailable, BlobUnavailable.
        """
        try:
            async with aclosing(self._stream()) as stream:
                async for chunk in stream:
                    yield chunk
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise database_unavailable() from error

    async def _stream(self) -> AsyncGenerator[bytes]:
        async with AsyncExitStack() as stack:
            holding, reading = [await stack.enter_async_context(await self._connect()) for _ in range(2)]
            # In a transaction of its own, before the snapshot: what is pruned then is in the snapshot, and its objects stay.
            await tables.hold_objects(holding)
            await tables.begin(reading)
            revision = await tables.revision(reading)
            salt = None if self._passphrase is None else new_salt()
            head = Head(self.made_at, __version__, revision, salt)
            async for chunk in write_archive(head, self._passphrase, self._members(reading)):
                yield chunk

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection[DictRow].connect(
            self._url,
            row_factory=dict_row,
            connect_timeout=CONNECT_TIMEOUT_SEC,
            application_name="bloom-backup",
        )

    async def _members(self, connection: Connection) -> AsyncGenerator[Member]:
        for table in await tables.tables(connection):
            rows = tables.RowsOut(connection, table)
            yield Member(f"tables/{table.name}", {"columns": table.columns}, aiter(rows))
            self.summary.tables[table.name] = rows.count
        # Read after the rows: what has counted on since leaves a gap, nothing is given twice.
        yield Member("sequences", await tables.sequences(connection), _nothing())
        async for member in self._objects(connection):
            yield member
        if self._wanted.memory is not None:
            async for member in self._memory(self._wanted.memory):
                yield member
        for name, path in self._wanted.files.items():
            self.summary.files.append(name)
            yield Member(f"files/{name}", {}, _file(path))
        yield Member("summary", self.summary.as_meta(), _nothing())

    async def _objects(self, connection: Connection) -> AsyncGenerator[Member]:
        if not self._wanted.contents:
            return
        async for found in tables.objects(connection):
            if (store := self._wanted.objects) is None:
                raise ConfigurationError(
                    "Artifacts are in an object store that is not set here: set MINIO_ENDPOINT (or BLOOM_BLOB_DIR), or "
                    "leave their contents out with --artifacts manifest"
                )
            stream = store.stream(found["key"])
            try:
                first = await anext(stream, b"")
            except BlobMissing:
                self.summary.missing_objects += 1
                if len(self.summary.missing) < _MISSING_NAMED:
                    self.summary.missing.append(found["key"])
                continue
            self.summary.objects += 1
            self.summary.object_bytes += found["size"]
            name = f"objects/{self.summary.objects:09}"
            yield Member(name, dict(found), _joined(first, stream))

    async def _memory(self, bucket: BlobStore) -> AsyncGenerator[Member]:
        """All objects of the bucket, again those that changed meanwhile: what comes later counts. Pointers come before what
        they point at, so nothing that is pruned meanwhile is pointed at in the end.
        """
        seen: dict[str, StoredObject] = {}
        for _ in range(_ROUNDS):
            listed = [each for each in await all_objects(bucket, MEMORY) if seen.get(each.key) != each]
            if not listed:
                break
            for each in sorted(listed, key=lambda each: ("/versions/" in each.key, each.key)):
                seen[each.key] = each
                stream = bucket.stream(each.key, chunk_bytes=PIECE_BYTES)
                try:
                    first = await anext(stream, b"")
                except BlobMissing:  # pruned by its node
                    continue
                self.summary.memory_objects += 1
                name = f"memory/{self.summary.memory_objects:09}"
                yield Member(name, {"key": each.key}, _joined(first, stream))


async def _nothing() -> AsyncGenerator[bytes]:
    return
    yield b""


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _file(path: Path) -> AsyncGenerator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(PIECE_BYTES):
            yield chunk
