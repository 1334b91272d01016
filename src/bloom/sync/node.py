"""One node at work on one project: its settings, its database, its store and what decides there."""

import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bloom.base.errors import ConfigurationError
from bloom.blobs.errors import BlobError
from bloom.blobs.interface import BlobStore
from bloom.sync.bucket_remote import BucketRemote
from bloom.sync.database import remove_leftover, settle, take_snapshot
from bloom.sync.errors import BadDatabase
from bloom.sync.model import Keys, LocalFiles, Snapshot
from bloom.sync.remote import Remote
from bloom.sync.settings import SyncSettings
from bloom.sync.state import SyncState, load_state, save_state, sole_sync

_PROBE_VALID_MS = 24 * 3600 * 1000


@dataclass(slots=True)
class Node:
    """`service` is the control plane, where one is set. `state` is that of the file, as of when the node was opened."""

    settings: SyncSettings
    keys: Keys
    files: LocalFiles
    store: BlobStore
    service: Remote | None
    state: SyncState

    def remember(self, **changes: Any) -> None:
        """Change the state, on the disk too. Raises OSError."""
        self.state = replace(self.state, **changes)
        save_state(self.files.state, self.state)

    def remember_sync(self, sha256: str, local_sha256: str) -> None:
        """Note that the local content `local_sha256` and the remote version `sha256` are the same. Raises OSError."""
        self.remember(synced=sha256, synced_as=local_sha256, synced_at_ms=now_ms(), intent=None)

    def snapshot(self, *, as_file: bool = False) -> Snapshot | None:
        """The local database as it is now, None where there is none; `as_file`: also as `files.snapshot`.

        What is known from last time serves while the database is untouched. Raises BadDatabase, DatabaseBusy, OSError.
        """
        database = self.files.database
        if not database.exists():
            return None
        try:
            return self._snapshot(database, as_file=as_file)
        except BadDatabase as error:
            raise BadDatabase(f"{database}: {error.message}", code=error.code) from None

    def _snapshot(self, database: Path, *, as_file: bool) -> Snapshot:
        if database.is_dir():
            raise BadDatabase("this is a directory; check CLAUDE_MEM_DB")
        known = self.state.snapshot
        is_at_hand = not as_file or self.files.snapshot.exists()
        if is_at_hand and known is not None and known.fingerprint == settle(database):
            return known
        taken = take_snapshot(database, self.files.snapshot)
        if taken != known:
            self.remember(snapshot=taken)
        return taken

    def is_equal(self, local: Snapshot, sha256: str) -> bool:
        """Whether the local content is the remote version `sha256`.

        A plain client's copy differs in bytes that say nothing, so what it looks like here is remembered.
        """
        return local.sha256 == sha256 or (sha256, local.sha256) == (self.state.synced, self.state.synced_as)

    async def remote(self, *, writes: bool) -> Remote:
        """What decides: the control plane where one is set, else the bucket. Raises BlobUnavailable."""
        return self.service or BucketRemote(self.store, self.settings, conditions=writes and await self.conditions())

    async def conditions(self, *, anew: bool = False) -> bool:
        """Whether the store honours conditional writes; tried out once a day. Raises BlobUnavailable."""
        known = self.state.conditions
        if known is None or anew or now_ms() - self.state.probed_at_ms > _PROBE_VALID_MS:
            from bloom.blobs.probe import honours_conditions

            known = await honours_conditions(self.store, f"projects/{self.keys.canonical_id}/locks/probe")
            self.remember(conditions=known, probed_at_ms=now_ms())
        return known


@asynccontextmanager
async def open_node(settings: SyncSettings) -> AsyncGenerator[Node]:
    """The node of `settings`; nothing is asked or written yet. Raises ConfigurationError.

    An error of the store that comes out of it names the store.
    """
    keys, files = settings.keys, LocalFiles(settings.database)
    place = hashlib.sha256(f"{keys.canonical_id} {settings.store_name}".encode()).hexdigest()[:16]
    node = Node(settings, keys, files, settings.open_store(), None, load_state(files.state, place))
    async with AsyncExitStack() as stack:
        if settings.membridge_url is not None:
            from bloom.sync.service_client import MembridgeClient
            from bloom.sync.service_remote import ServiceRemote

            if settings.membridge_admin_key is None:
                raise ConfigurationError("MEMBRIDGE_URL is set, so MEMBRIDGE_ADMIN_KEY must be set too")
            key = settings.membridge_admin_key.get_secret_value()
            client = await stack.enter_async_context(MembridgeClient(settings.membridge_url, key))
            node.service = ServiceRemote(client, node.store, settings)
        try:
            yield node
        except BlobError as error:
            error.message = f"{error.message} ({settings.store_name})"
            raise


@asynccontextmanager
async def working(node: Node) -> AsyncGenerator[None]:
    """Be the only sync of the database here, without what a killed one left. Raises Locked, OSError."""
    async with sole_sync(node.files):
        node.state = load_state(node.files.state, node.state.place)
        files = node.files
        leftovers = (files.snapshot, files.download, files.base, files.merged, files.incoming)
        for path in leftovers:
            remove_leftover(path)
        try:
            yield
        finally:
            for path in leftovers:
                remove_leftover(path)


def now_ms() -> int:
    """The time by this machine's clock, in epoch milliseconds."""
    return int(time.time() * 1000)
