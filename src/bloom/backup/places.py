"""Where archives lie: a directory of this machine, or the object store below `backups/`. Both are blob stores."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bloom.backup.archive import ArchiveReader, Head
from bloom.backup.errors import BackupDamaged, BackupTooNew
from bloom.base.errors import ConfigurationError, NotFound
from bloom.blobs.errors import BlobMissing
from bloom.blobs.interface import BlobStore, all_objects
from bloom.blobs.local import DirectoryBlobs

PREFIX = "backups"
SUFFIX = ".bloombackup"


@dataclass(frozen=True, slots=True)
class Listed:
    """One archive as a list tells of it. `head` None: it is none, or of a newer release."""

    name: str
    size: int
    head: Head | None


@dataclass(frozen=True, slots=True)
class Shelf:
    """Keeps archives by name. `directory` says where they are when it is one of this machine."""

    store: BlobStore
    directory: Path | None = None

    def key(self, name: str) -> str:
        """The key of an archive in the store."""
        return name if self.directory is not None else f"{PREFIX}/{name}"

    async def put(self, name: str, stream: AsyncIterator[bytes]) -> None:
        """Write an archive: whole or not at all."""
        await self.store.put(self.key(name), stream)

    async def open(self, name: str) -> AsyncIterator[bytes]:
        """The bytes of an archive. Raises NotFound."""
        try:
            await self.store.size(self.key(name))
        except BlobMissing:
            raise NotFound("There is no such archive") from None
        return self.store.stream(self.key(name))

    async def list(self) -> Sequence[Listed]:
        """All archives, oldest first."""
        if self.directory is not None:
            found = [(each.name, each.stat().st_size) for each in sorted(self.directory.glob("*" + SUFFIX))]
        else:
            listed = await all_objects(self.store, PREFIX)
            found = [(each.key.removeprefix(PREFIX + "/"), each.size) for each in listed]
        return [Listed(name, size, await self._head(name)) for name, size in found if name.endswith(SUFFIX)]

    async def _head(self, name: str) -> Head | None:
        try:
            return await ArchiveReader(self.store.stream(self.key(name))).head()
        except (BackupDamaged, BackupTooNew, BlobMissing):
            return None


def directory_shelf(directory: Path) -> Shelf:
    """The archives of a directory, which is made, for this user alone, when it is missing."""
    return Shelf(DirectoryBlobs(directory, variable="The place of the archive"), directory)


def store_shelf(store: BlobStore | None) -> Shelf:
    """The archives in the object store. Raises ConfigurationError when none is set."""
    if store is None:
        raise ConfigurationError("--store needs an object store: set MINIO_ENDPOINT (or BLOOM_BLOB_DIR)")
    return Shelf(store)


def archive_name(made_at: datetime) -> str:
    """The name of an archive that was given none; names sort by time."""
    return f"bloom-{made_at:%Y%m%dT%H%M%SZ}{SUFFIX}"
