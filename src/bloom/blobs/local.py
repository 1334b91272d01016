"""Stores without a service: a directory of this host, and memory for tests."""

import asyncio
import fcntl
import os
from pathlib import Path

import obstore
from obstore.exceptions import PreconditionError
from obstore.store import LocalStore, MemoryStore

from bloom.base.errors import ConfigurationError
from bloom.blobs.transfer import TransferStore
from bloom.blobs.upload import UploadSource

_LOCK = ".lock#"
"""Beside the objects; `check_key` lets none have this name, and obstore lists no name with a `#`."""


class DirectoryBlobs(TransferStore):
    """Each object is a file under `directory`, which is made, for this user alone, when it is missing.

    Files appear whole (written aside, then renamed) and are on the disk when `put` returns. Content types are not kept.
    """

    scheme = "file"
    _takes_content_type = False
    _refusal = "The directory of the object store cannot be used: this user has no access to it"

    def __init__(self, directory: Path, *, variable: str = "BLOOM_BLOB_DIR") -> None:
        """Raises ConfigurationError that names `variable` when the directory cannot be made or is none."""
        self._directory = directory.expanduser().absolute()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            raise ConfigurationError(f"{variable} must be a directory, or a path where one can be made") from None
        super().__init__(LocalStore(self._directory))

    async def _send(self, key: str, data: bytes | UploadSource, content_type: str | None) -> None:
        await super()._send(key, data, content_type)
        await asyncio.to_thread(self._sync, key)

    async def _send_if(self, key: str, data: bytes, tag: str | None) -> None:
        await asyncio.to_thread(self._write_if, key, data, tag)

    def _write_if(self, key: str, data: bytes, tag: str | None) -> None:
        # A LocalStore can create, not replace, on a condition. The lock is the kernel's: it ends with its process.
        with (self._directory / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if tag is None:
                obstore.put(self._store, key, data, mode="create")
            elif self._tag(key) == tag:
                obstore.put(self._store, key, data)
            else:
                raise PreconditionError
            self._sync(key)

    def _tag(self, key: str) -> str | None:
        try:
            return obstore.head(self._store, key)["e_tag"]
        except FileNotFoundError:
            return None

    def _sync(self, key: str) -> None:
        # obstore renames without fsync: after a crash of the machine there could be an empty file, or none.
        path = self._directory / key
        _fsync(path)
        while path != self._directory:
            path = path.parent
            _fsync(path)


class MemoryBlobs(TransferStore):
    """Objects that live as long as this process."""

    scheme = "memory"

    def __init__(self) -> None:
        super().__init__(MemoryStore())


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
