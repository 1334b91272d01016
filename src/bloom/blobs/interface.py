"""What the rest of the program knows of an object store."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from bloom.base.errors import InvalidInput
from bloom.base.text import is_storable

CHUNK_BYTES = 256 * 1024
_LONGEST_KEY = 1024
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One object as a list tells of it; `modified` by the store's clock."""

    key: str
    size: int
    modified: datetime


class BlobStore(Protocol):
    """Named byte strings. Each operation may raise BlobUnavailable, and InvalidInput for a key that `check_key` refuses."""

    @property
    def scheme(self) -> str:
        """What the store's URLs begin with: `minio`, `file` or `memory`."""
        ...

    async def put(self, key: str, data: bytes | AsyncIterator[bytes], *, content_type: str | None = None) -> None:
        """Store `data` under `key`, in place of what was there; whole or not at all, and durable on return.

        An iterator is sent on as it comes, in bounded memory; what it raises is raised, and it is closed in any case.
        """
        ...

    async def get(self, key: str) -> bytes:
        """All of the object. Raises BlobMissing."""
        ...

    async def read(self, key: str) -> tuple[bytes, str]:
        """All of the object, and a tag of this state of it for `put_if`. Raises BlobMissing."""
        ...

    async def tag(self, key: str) -> str:
        """The tag of `read` alone. Raises BlobMissing."""
        ...

    async def put_if(self, key: str, data: bytes, *, tag: str | None) -> None:
        """`put` only in place of the state that `read` gave `tag` for; None: only where there is no object.

        Raises BlobChanged otherwise. Some S3 servers ignore the condition: `probe.honours_conditions` finds out. In a
        directory it holds among the processes of one host.
        """
        ...

    def stream(self, key: str, *, chunk_bytes: int = CHUNK_BYTES) -> AsyncIterator[bytes]:
        """The object in chunks of at least `chunk_bytes`, the last excepted, in bounded memory. Raises BlobMissing."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; one that is missing is fine."""
        ...

    async def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        ...

    async def size(self, key: str) -> int:
        """The object's size in bytes. Raises BlobMissing."""
        ...

    async def page(self, prefix: str, *, after: str | None, limit: int) -> Sequence[StoredObject]:
        """The first `limit` objects below `prefix/`, by key, behind the key `after`."""
        ...

    async def presign_get(self, key: str, *, expires_sec: int) -> str:
        """A URL that reads the object, without a key, for `expires_sec` seconds (1 to 604,800). The store is not asked.

        Raises BlobError, code `presign_unsupported`, where the store has no such thing.
        """
        ...

    def url(self, key: str) -> str:
        """The object's name for people and records, `minio://bucket/key`; it holds no address and no path."""
        ...

    async def check(self) -> None:
        """Return if the store can be reached and written to: stores a small object and removes it."""
        ...


def check_key(key: str) -> None:
    """Raise InvalidInput unless `key` means the same object in every store.

    That is: 1 to 1,024 bytes of UTF-8 (the limit of S3), segments separated by `/`, none of them empty, `.` or `..`; no
    control character, no backslash, no `#` (a directory store's unfinished files have one).
    """
    segments = key.split("/")
    if (
        not is_storable(key)
        or len(key.encode()) > _LONGEST_KEY
        or any(segment in ("", ".", "..") for segment in segments)
        or any(character < " " or character in "\\#\x7f" for character in key)
    ):
        raise InvalidInput("Must be the key of an object, such as artifacts/task/output", code="blob_key")


async def all_objects(store: BlobStore, prefix: str) -> list[StoredObject]:
    """All objects below `prefix/`, by key."""
    found: list[StoredObject] = []
    while page := await store.page(prefix, after=found[-1].key if found else None, limit=_PAGE):
        found += page
    return found
