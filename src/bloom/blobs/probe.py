"""Finds out by trying what a store only claims to do."""

import secrets

from bloom.blobs.errors import BlobChanged, BlobUnavailable
from bloom.blobs.interface import BlobStore


async def honours_conditions(store: BlobStore, prefix: str = "bloom-check") -> bool:
    """Whether `put_if` writes when its condition holds and does not when it fails. Writes below `prefix` and tidies up.

    Measured: moto 5 and Ceph's gateway honour them, rclone's S3 server takes every write. Raises BlobUnavailable when
    the store takes no write at all.
    """
    key = f"{prefix}/{secrets.token_hex(8)}"
    try:
        try:
            await store.put_if(key, b"first", tag=None)
        except BlobUnavailable:  # down, or a server that answers conditions with an error
            await store.put(key, b"first")
            return False
        if not await _refused(store, key, None):
            return False
        _, first = await store.read(key)
        await store.put_if(key, b"second", tag=first)
        return await _refused(store, key, first)
    except BlobChanged:  # the condition held, and the write was refused
        return False
    finally:
        await store.delete(key)


async def _refused(store: BlobStore, key: str, tag: str | None) -> bool:
    try:
        await store.put_if(key, b"intruder", tag=tag)
    except BlobChanged:
        return True
    return False
