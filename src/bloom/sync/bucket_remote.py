"""The bucket alone as what decides, for nodes without a control plane: `lease.json` and `current.json`.

Where the store honours conditional writes, they make the change of lease and pointer one step. Where it does not, each is
looked at again after the write, and a leader that finds itself replaced puts the newer leader's version back.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from bloom.base.clock import to_ms
from bloom.blobs.errors import BlobChanged, BlobError, BlobMissing
from bloom.blobs.interface import BlobStore, StoredObject, all_objects
from bloom.membridge.lease_file import audit_key, lease_fields
from bloom.membridge.model import Lease
from bloom.sync.errors import BadLease, BadPointer, PushRefused, RemoteMoved, SyncError
from bloom.sync.failpoints import reach
from bloom.sync.model import Keys, Role, Snapshot, Standing, Version
from bloom.sync.project_lock import epoch_ms
from bloom.sync.remote import counts_of, decode_version, encode_version, is_sha256, parse_object, plain_version
from bloom.sync.settings import SyncSettings

_STALE = "this node does not lead any more; nothing was changed"


class BucketRemote:
    """See `remote.Remote`. `conditions`: the store honours conditional writes."""

    def __init__(self, store: BlobStore, settings: SyncSettings, *, conditions: bool) -> None:
        self._store = store
        self._settings = settings
        self._keys = settings.keys
        self._conditions = conditions

    async def standing(self, snapshot: Snapshot | None, *, asks: bool) -> Standing:
        """See Remote.standing. Writes the lease when `asks` and this node may."""
        me, named = self._settings.node_id, self._settings.primary_node_id
        content, tag = await self._read(self._keys.lease)
        if content is None:
            if named != me:
                hint = (
                    f"{named} is to lead"
                    if named
                    else f"nobody leads; PRIMARY_NODE_ID={me} makes this node the primary"
                )
                return Standing(Role.SECONDARY, None, named, None, "lease.json", hint)
            epoch = await self._last_epoch() + 1
            if asks:
                return await self._lead(epoch, None, begins=True)
            reason = "nobody leads yet: a push takes the lead"
            return Standing(Role.PRIMARY, epoch, me, None, "PRIMARY_NODE_ID", reason, takes_lead=True)
        lease = _Lease(content, self._keys)
        left_ms = lease.expires_at_ms - _now_ms()
        standing = Standing(Role.SECONDARY, lease.epoch, lease.primary, lease.expires_at_ms, "lease.json")
        if lease.needs_selection and (left_ms > 0 or named != me):
            reason = "the lease waits for a selection in Membridge (without one: PRIMARY_NODE_ID, once it has ended)"
            return replace(standing, reason=reason)
        if left_ms > 0 and lease.primary != me:
            return replace(standing, reason=f"{lease.primary} leads")
        if left_ms <= 0 and not lease.is_from_a_node:
            return replace(standing, reason="the lease that Membridge issued has ended; only Membridge renews it")
        if left_ms <= 0 and me not in (lease.primary, named):
            return replace(standing, reason=f"the lease of {lease.primary} has ended")
        primary = replace(standing, role=Role.PRIMARY, primary=me)
        if not asks and left_ms <= 0 and lease.is_from_a_node:
            reason = f"the lease of {lease.primary} has ended: a push takes the lead"
            epoch = lease.epoch + (lease.primary != me)
            return replace(primary, epoch=epoch, reason=reason, takes_lead=True)
        if not asks or left_ms > self._settings.lease_sec * 500 or not lease.is_from_a_node:
            return primary
        return await self._lead(lease.epoch + (lease.primary != me), tag, begins=lease.primary != me)

    async def _lead(self, epoch: int, tag: str | None, *, begins: bool) -> Standing:
        me, now, cid = self._settings.node_id, datetime.now(UTC), self._keys.canonical_id
        expires = now + timedelta(seconds=self._settings.lease_sec)
        lease = Lease(epoch, me, self._settings.lease_sec, now, f"node:{me}", expires)
        content = json.dumps(lease_fields(cid, lease)).encode()
        try:
            await self._write(self._keys.lease, content, tag)
        except BlobChanged:
            raise SyncError("another node changed the lease at this moment; try again", code="lease_changed") from None
        if (written := await self._lease()) is None or written.primary != me or written.epoch != epoch:
            raise SyncError("another node changed the lease at this moment; try again", code="lease_changed")
        if begins:
            with suppress(BlobError):  # a copy for people; the lease itself is written
                await self._store.put(audit_key(cid, lease), content, content_type="application/json")
        return Standing(Role.PRIMARY, epoch, me, to_ms(expires), "lease.json")

    async def _last_epoch(self) -> int:
        """The epoch of what is current, 0 for none: a lease that was lost does not begin again behind it."""
        try:
            current = self._pointed_at((await self._read(self._keys.pointer))[0])
        except BadPointer:
            return max((each.epoch for each in await self.history()), default=0)
        return 0 if current is None else current.epoch

    async def current(self) -> Version | None:
        """See Remote.current. Raises BadPointer."""
        content, _ = await self._read(self._keys.pointer)
        return self._pointed_at(content) or await plain_version(self._store, self._keys)

    def _pointed_at(self, content: bytes | None) -> Version | None:
        try:
            return None if content is None else decode_version(content, "current.json")
        except SyncError:
            raise BadPointer(
                "current.json in the bucket, which names the current version, is damaged; the versions themselves are "
                "whole (`bloom sync history`). On the primary, `bloom sync push --force` makes the memory there current, "
                "`bloom sync restore VERSION` an older one; either repairs it"
            ) from None

    async def move(self, version: Version, standing: Standing, *, force: bool) -> None:
        """See Remote.move."""
        content, tag = await self._read(self._keys.pointer)
        try:
            before = self._pointed_at(content)
        except BadPointer:
            if not force:
                raise
            before = None
        if before is not None and before.epoch > version.epoch:
            raise PushRefused(_STALE, code="stale_epoch")
        if before is not None and before.sha256 not in (version.based_on, version.sha256) and not force:
            raise RemoteMoved(
                "the remote memory has moved on since this node last synced; pull it (--merge keeps both)"
            )
        await self._require_lead(standing)
        reach("bucket.pointer_about_to_move")
        try:
            await self._write(self._keys.pointer, encode_version(version), tag)
        except BlobChanged:
            await self._require_lead(standing)
            raise RemoteMoved("another push came first; pull it (--merge keeps both)") from None
        try:
            await self._require_lead(standing)
        except PushRefused:
            await self._give_way(version.epoch)
            raise

    async def _give_way(self, epoch: int) -> None:
        """Put back the version of a leader of a later epoch, which a write of ours may have taken from its place."""
        later = [each for each in await self.history() if each.epoch > epoch]
        if later:
            newest = max(later, key=lambda each: (each.epoch, each.created_at_ms))
            await self._store.put(self._keys.pointer, encode_version(newest))

    async def restore(self, version: Version, standing: Standing) -> None:
        """See Remote.restore."""
        await self.move(replace(version, epoch=standing.epoch or version.epoch), standing, force=True)

    async def history(self) -> Sequence[Version]:
        """See Remote.history."""
        content, _ = await self._read(self._keys.pointer)
        try:
            pointed_at = self._pointed_at(content)
        except BadPointer:  # what was pushed is there all the same
            pointed_at = None
        current = None if pointed_at is None else pointed_at.key
        listed = await all_objects(self._store, self._keys.versions)
        found = await asyncio.gather(*(self._version(each) for each in listed))
        versions = [replace(each, current=each.key == current) for each in found if each is not None]
        return sorted(versions, key=lambda each: (each.created_at_ms, each.epoch), reverse=True)

    async def _version(self, listed: StoredObject) -> Version | None:
        epoch, _, sha256 = listed.key.split("/")[-2].partition("-")
        if not listed.key.endswith("/claude-mem.db") or not epoch.isdigit() or not is_sha256(sha256):
            return None
        version = Version(sha256, int(epoch), listed.key, listed.size)
        content, _ = await self._read(self._keys.manifest_of(listed.key))
        if content is None:  # a push that was cut off
            return None
        try:
            manifest = parse_object(content, "the manifest of a version")
        except SyncError:  # the hash in the key tells whether the file is whole
            manifest = {}
        return replace(
            version,
            counts=counts_of(manifest),
            node_id=str(manifest.get("node_id") or manifest.get("source_host", "")),
            based_on=manifest.get("based_on"),
            created_at_ms=epoch_ms(manifest.get("timestamp")) or int(listed.modified.timestamp() * 1000),
        )

    async def forget(self, version: Version) -> None:
        """See Remote.forget: what is not in the bucket is not on the list."""

    async def publish(self, version: Version) -> None:
        """See Remote.publish: the pointer itself tells."""

    async def _require_lead(self, standing: Standing) -> None:
        if standing.role is not Role.PRIMARY:  # allowed by the operator, for want of a fence
            return
        lease = await self._lease()
        if lease is None or lease.primary != self._settings.node_id or lease.epoch != standing.epoch:
            raise PushRefused(_STALE, code="stale_epoch")

    async def _lease(self) -> "_Lease | None":
        content, _ = await self._read(self._keys.lease)
        return None if content is None else _Lease(content, self._keys)

    async def _read(self, key: str) -> tuple[bytes | None, str | None]:
        try:
            return await self._store.read(key)
        except BlobMissing:
            return None, None

    async def _write(self, key: str, content: bytes, tag: str | None) -> None:
        if self._conditions:
            await self._store.put_if(key, content, tag=tag)
        else:
            await self._store.put(key, content, content_type="application/json")


class _Lease:
    """`lease.json`. Raises BadLease when it cannot be understood: then nobody is primary."""

    def __init__(self, content: bytes, keys: Keys) -> None:
        try:
            fields = parse_object(content, "lease.json")
        except SyncError:
            fields = {}
        primary, epoch, expires = (
            fields.get("primary_node_id"),
            fields.get("epoch", 0),
            epoch_ms(fields.get("expires_at")),
        )
        self.needs_selection = bool(fields.get("needs_ui_selection"))
        if self.needs_selection and primary is None:
            primary = ""
        is_ours = fields.get("canonical_id", keys.canonical_id) == keys.canonical_id
        is_whole = isinstance(primary, str) and type(epoch) is int and expires is not None
        if not (is_ours and is_whole):
            what = "is not understood" if is_ours else "is that of another project"
            raise BadLease(
                f"lease.json in the bucket {what}, so nobody is primary; remove {keys.lease} from the bucket, and the next "
                "push of the node that PRIMARY_NODE_ID names writes a new one"
            )
        assert isinstance(primary, str) and isinstance(epoch, int) and expires is not None  # noqa: S101
        self.primary = primary
        self.epoch = epoch
        self.expires_at_ms = expires
        self.is_from_a_node = fields.get("issued_by") in (f"node:{primary}", primary)


def _now_ms() -> int:
    return int(time.time() * 1000)
