"""Restoring an archive: read whole first, then read again into one transaction."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg

from bloom.backup import tables
from bloom.backup.archive import ArchiveReader, Head, Member
from bloom.backup.create import MEMORY
from bloom.backup.errors import BackupDamaged, BackupTooNew, TargetNotEmpty
from bloom.backup.settings import ENV_FILE, SECRET_FILES
from bloom.base.errors import ConfigurationError, InvalidInput
from bloom.blobs.errors import BlobMissing
from bloom.blobs.interface import BlobStore, check_key
from bloom.db.data_dir import write_atomically
from bloom.db.migrate import HEAD, known_revisions, rebuilding, upgrade


@dataclass(frozen=True, slots=True)
class Target:
    """Where an archive goes, besides the database. `memory` None: the projects' memories are left out; `env_file` None: the
    environment file is.
    """

    objects: BlobStore | None
    memory: BlobStore | None
    data_dir: Path
    env_file: Path | None
    force: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """An archive that was read whole. `summary` is what it says it holds; `files` are the small ones, whole."""

    head: Head
    summary: Mapping[str, Any]
    files: Mapping[str, str]


async def verify(archive: AsyncIterator[bytes], passphrase: str | None) -> Verified:
    """Read all of an archive. Raises BackupDamaged, BackupLocked, BackupTooNew for one that cannot be restored."""
    reader = ArchiveReader(archive)
    head = await reader.head()
    if head.revision not in known_revisions():
        raise BackupTooNew(
            f"The archive has schema revision {head.revision}, which this release does not know (it knows up to {HEAD}). "
            f"Install the release that made it ({head.release}) or a newer one."
        )
    files: dict[str, str] = {}
    summary: Mapping[str, Any] | None = None
    counted = {"tables": 0, "objects": 0, "memory": 0}
    async for member in reader.members(head, passphrase):
        kind, _, name = member.name.partition("/")
        _require_place(kind, name, member.meta)
        if kind in counted:
            counted[kind] += 1
        if kind == "files":
            files[name] = await _text(member)
        summary = member.meta if member.name == "summary" else None
    try:
        holds = summary is not None and counted == {
            "tables": len(summary["tables"]),
            "objects": summary["objects"],
            "memory": summary["memory_objects"],
        }
    except (KeyError, TypeError):
        holds = False
    if summary is None or not holds:
        raise BackupDamaged("The archive does not hold what it says. Take another one.")
    return Verified(head, summary, files)


def _require_place(kind: str, name: str, meta: object) -> None:
    """Whoever can write an archive chooses the names in it. Raises BackupDamaged for one that has no place of its own."""
    fields: dict[str, Any] = cast("dict[str, Any]", meta) if isinstance(meta, dict) else {}
    if kind in ("objects", "memory"):
        key = fields.get("key")
        try:
            check_key(key if isinstance(key, str) else "")
        except InvalidInput:
            is_good = False
        else:
            is_good = kind == "objects" or str(key).startswith(MEMORY + "/")
    else:
        is_good = kind == "tables" or (kind in ("sequences", "summary") and not name)
        is_good = is_good or (kind == "files" and name in (*SECRET_FILES, ENV_FILE))
    if not is_good or not isinstance(meta, dict):
        raise BackupDamaged(
            "The archive holds something that would go to a place which is none of ours. Take another one."
        )


async def restore(
    archive: AsyncIterator[bytes], verified: Verified, passphrase: str | None, database_url: str, target: Target
) -> None:
    """Put what `verify` has read into its places: all of the database in one transaction, which the rest has to go before.

    Raises TargetNotEmpty where something would be replaced and `force` was not given, Conflict (`database_in_use`) while
    others work on the database, ConfigurationError for a place that is missing, BackupDamaged for an archive that is not the
    verified one; the database is then as it was. Objects that were written by then stay; nothing refers to them.
    """
    target.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    await _require_places(verified, target)
    reader = ArchiveReader(archive)
    if await reader.head() != verified.head:
        raise BackupDamaged("The archive changed while it was restored. Take another one.")
    with rebuilding(database_url) as schema:
        connection = schema.connection
        if not target.force and tables.holds_work(connection):
            raise TargetNotEmpty("The database is not empty; --force replaces all that BLOOM has in it.")
        tables.drop_all(connection)
        schema.upgrade(verified.head.revision)
        references = tables.drop_references(connection)
        known = tables.known_tables(connection)
        async for member in reader.members(verified.head, passphrase):
            await _put(member, connection, known, target)
        tables.make_references(connection, references)
        if target.objects is not None:
            tables.point_to_store(connection, target.objects.url("x").removesuffix("x"))
        schema.upgrade("head")
        for path, content in _files(verified, target).items():
            write_atomically(path, content)
    upgrade(
        database_url
    )  # lets the audit log go on behind its last entry, should this server have counted less transactions


async def _require_places(verified: Verified, target: Target) -> None:
    if verified.summary["objects"] and target.objects is None:
        raise ConfigurationError(
            "The archive holds contents of artifacts: set MINIO_ENDPOINT or BLOOM_BLOB_DIR, where they are to go"
        )
    memory = None if target.force or not verified.summary["memory_objects"] else target.memory
    if memory is not None and await memory.page(MEMORY, after=None, limit=1):
        raise TargetNotEmpty("There are projects' memories in the bucket already; --force replaces them.")
    for path, content in _files(verified, target).items():
        if not target.force and path.exists() and path.read_text(encoding="utf-8", errors="replace") != content:
            raise TargetNotEmpty(f"There is another {path.name} already; --force replaces it.")
        if not path.parent.is_dir():
            raise ConfigurationError(f"There is no directory for {path.name}")


def _files(verified: Verified, target: Target) -> dict[Path, str]:
    places = {name: target.data_dir / name for name in SECRET_FILES}
    if target.env_file is not None:
        places[ENV_FILE] = target.env_file
    return {places[name]: content for name, content in verified.files.items() if name in places}


async def _put(
    member: Member, connection: psycopg.Connection[Any], known: Mapping[str, tables.Table], target: Target
) -> None:
    kind, _, name = member.name.partition("/")
    if kind == "tables":
        table = known.get(name)
        columns = member.meta.get("columns", [])
        # The names become part of a statement: only those that the schema has.
        if table is None or not set(columns) <= set(table.columns):
            raise BackupDamaged(f"The archive does not fit the schema that it names ({name}).")
        await tables.copy_in(connection, tables.Table(name, columns), member.data)
    elif kind == "sequences":
        tables.advance(connection, member.meta)
    elif kind == "objects" and target.objects is not None:
        key = member.meta["key"]
        if await _size(target.objects, key) != member.meta.get("size"):  # what was written once never changes
            await target.objects.put(key, member.data)
    elif kind == "memory" and target.memory is not None:
        await target.memory.put(member.meta["key"], member.data)


async def _size(store: BlobStore, key: str) -> int | None:
    try:
        return await store.size(key)
    except BlobMissing:
        return None


async def _text(member: Member) -> str:
    content = bytearray()
    async for piece in member.data:
        content += piece
    return content.decode()
