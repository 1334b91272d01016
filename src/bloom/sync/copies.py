"""Files between this machine and the bucket, each checked against its hash, and the copy that plain clients read."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bloom.blobs.errors import BlobError, BlobMissing
from bloom.blobs.interface import BlobStore, all_objects
from bloom.sync.errors import SyncError
from bloom.sync.failpoints import reach
from bloom.sync.model import Keys, Version
from bloom.sync.remote import Remote, counts_of, encode_version, has_good_key, parse_object, read_hash

_CHUNK_BYTES = 1 << 20
_ROUNDS = 5


async def upload(store: BlobStore, keys: Keys, version: Version, file: Path, source_host: str) -> None:
    """Store `file` as the immutable `version`, its manifest last: without one it counts as cut off."""
    await store.put(version.key, _pieces(file))
    reach("push.version_stored")
    await store.put(
        keys.manifest_of(version.key), _manifest(keys, version, source_host), content_type="application/json"
    )
    reach("push.version_complete")


async def download(store: BlobStore, version: Version, into: Path) -> None:
    """Fetch `version` to the file `into` (mode 600). Raises SyncError when it is not what its hash says; OSError."""
    with os.fdopen(os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        async for piece in _checked(store, version):
            await asyncio.to_thread(file.write, piece)
            reach("pull.downloading")


async def is_plain_current(store: BlobStore, keys: Keys, version: Version, *, published: bool) -> bool:
    """Whether plain clients find `version`, whole; `published`: whether `current.json` is a copy that has to say so too."""
    try:
        manifest = parse_object(await store.get(keys.plain_manifest), "manifest.json")
        if (await read_hash(store, keys), manifest.get("sha256")) != (version.sha256, version.sha256):
            return False
        if published and await store.get(keys.pointer) != encode_version(version):
            return False
        # A leader that was replaced may have written its file over a newer one: the hash object does not tell.
        if manifest.get("file_tag") == await store.tag(keys.plain):
            return True
        return await _sha256_of(store, keys.plain) == version.sha256
    except (BlobMissing, SyncError):
        return False


async def make_plain_current(
    remote: Remote,
    store: BlobStore,
    keys: Keys,
    *,
    published: bool,
    source_host: str,
    local: tuple[str, Path] | None = None,
) -> bool:
    """Let plain clients find what is current; whether there was anything to write.

    What is current is asked again after each writing, so of several writers, however slow, the last leaves it right. The
    hash follows the file: who reads in between meets a hash that does not match. `local`: a file at hand and its SHA-256.
    """
    for round_number in range(_ROUNDS):
        current = await remote.current()
        if current is None or current.key == keys.plain:
            return False
        if await is_plain_current(store, keys, current, published=published):
            return round_number > 0
        await remote.publish(current)
        reach("plain.pointer_published")
        await _keep_stray(store, keys, current)
        if local is not None and local[0] == current.sha256:
            await store.put(keys.plain, _pieces(local[1]))
        else:
            await store.put(keys.plain, _checked(store, current))
        reach("plain.file_written")
        tag = await store.tag(keys.plain)
        await store.put(keys.plain_hash, f"{current.sha256}  claude-mem.db\n".encode(), content_type="text/plain")
        reach("plain.hash_written")
        manifest = _manifest(keys, current, source_host, file_tag=tag)
        await store.put(keys.plain_manifest, manifest, content_type="application/json")
        reach("plain.manifest_written")
    raise SyncError("the plain copy changes under our hands; the next command repairs it", code="plain_copy")


async def try_to_make_plain_current(remote: Remote, store: BlobStore, keys: Keys, **more: Any) -> list[str]:
    """`make_plain_current`, whose failure is a warning: what is current is decided already."""
    try:
        await make_plain_current(remote, store, keys, **more)
    except (BlobError, SyncError) as error:
        return [f"the copy for plain clients is not up to date ({error.message}); the next command repairs it"]
    return []


async def _keep_stray(store: BlobStore, keys: Keys, current: Version) -> None:
    """Keep what a plain client pushed past the leader as a version of epoch 0, before it is written over."""
    try:
        sha256 = await read_hash(store, keys)
        manifest = parse_object(await store.get(keys.plain_manifest), "manifest.json")
        if sha256 is None or sha256 == current.sha256 or manifest.get("sha256") != sha256:
            return
        if any(sha256 in each.key for each in await all_objects(store, keys.versions)):
            return
        stray = Version(sha256, 0, keys.plain, await store.size(keys.plain), counts_of(manifest))
        kept = replace(stray, key=keys.version(0, sha256), created_at_ms=int(datetime.now(UTC).timestamp() * 1000))
        await store.put(kept.key, _checked(store, stray))
        host = str(manifest.get("source_host", ""))
        await store.put(keys.manifest_of(kept.key), _manifest(keys, kept, host), content_type="application/json")
    except (BlobMissing, SyncError):
        return  # cut off, or a leftover of our own: nothing whole to keep


def _manifest(keys: Keys, version: Version, source_host: str, **more: Any) -> bytes:
    return json.dumps(
        {
            "project": keys.project,
            "canonical_id": keys.canonical_id,
            "timestamp": version.created_at_ms,
            "source_host": source_host,
            "db_size": version.db_size,
            "sha256": version.sha256,
            **version.counts,
            "epoch": version.epoch,
            "node_id": version.node_id,
            "based_on": version.based_on,
            **more,
        }
    ).encode()


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as source:
        while piece := await asyncio.to_thread(source.read, _CHUNK_BYTES):
            yield piece


async def _checked(store: BlobStore, version: Version) -> AsyncIterator[bytes]:
    if not has_good_key(version):
        raise SyncError(
            f"version {version.sha256[:12]} cannot be fetched: {version.key!r} is no place of a version. On the primary, "
            "`bloom sync push --force` makes the memory there current, `bloom sync restore VERSION` an older version of "
            "`bloom sync history`",
            code="bad_key",
        )
    digest = hashlib.sha256()
    async for piece in store.stream(version.key):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != version.sha256:
        raise SyncError(
            "the file in the bucket does not match its hash: it is being pushed right now, or it is damaged; try again, "
            "or bring an older version back with `bloom sync restore`",
            code="bad_hash",
        )


async def _sha256_of(store: BlobStore, key: str) -> str:
    digest = hashlib.sha256()
    async for piece in store.stream(key):
        digest.update(piece)
    return digest.hexdigest()
