"""The control plane as what decides: PostgreSQL holds the pointer, a heartbeat tells the role."""

import socket
import time
from collections.abc import Sequence

import psutil

from bloom import __version__
from bloom.blobs.interface import BlobStore
from bloom.membridge.schemas import NewVersion, NodeHeartbeat, RestoreVersion, VersionFields
from bloom.sync.errors import MembridgeRefused, PushRefused, RemoteMoved, SyncError
from bloom.sync.model import Role, Snapshot, Standing, Version
from bloom.sync.remote import encode_version, plain_version
from bloom.sync.service_client import MembridgeClient
from bloom.sync.settings import SyncSettings


class ServiceRemote:
    """See `remote.Remote`."""

    def __init__(self, client: MembridgeClient, store: BlobStore, settings: SyncSettings) -> None:
        self._client = client
        self._store = store
        self._settings = settings
        self._keys = settings.keys
        self._cid = self._keys.canonical_id

    async def standing(self, snapshot: Snapshot | None, *, asks: bool) -> Standing:
        """See Remote.standing."""
        answer = await self._client.heartbeat(
            NodeHeartbeat(
                node_id=self._settings.node_id,
                canonical_id=self._cid,
                project_id=self._keys.project,
                obs_count=None if snapshot is None else snapshot.counts.get("observations"),
                db_sha=None if snapshot is None else snapshot.sha256,
                ip_addrs=addresses(),
                agent_version=__version__,
                asks=asks,
            )
        )
        role = Role(answer.role)
        if role is Role.PRIMARY and answer.epoch is None:
            raise SyncError("Membridge names no epoch; install the release of bloom-runtime that it has")
        leader = answer.primary_node_id
        reason = (
            "" if role is Role.PRIMARY else f"{leader} leads" if leader else "nobody leads; select a node in Membridge"
        )
        takes_lead = role is not Role.PRIMARY and not leader and not asks
        if takes_lead:
            reason = await self._prospect()
        # By what is left of the lease: the clocks of node and service may differ.
        left_ms = answer.lease_remaining_ms
        expires = answer.lease_expires_at if left_ms is None else int(time.time() * 1000) + left_ms
        return Standing(role, answer.epoch, leader, expires, "Membridge", reason, takes_lead)

    async def _prospect(self) -> str:
        """What a push meets while nobody leads: it gets the lead, unless a node that asks too comes first."""
        nodes = (await self._client.leadership(self._cid)).nodes
        others = [each.node_id for each in nodes if each.online and each.node_id != self._settings.node_id]
        rivals = f", unless {' or '.join(others[:3])} asks for it at this moment and comes first" if others else ""
        return f"nobody leads yet: a push takes the lead{rivals}"

    async def current(self) -> Version | None:
        """See Remote.current."""
        known = await self._client.current_version(self._cid)
        return await plain_version(self._store, self._keys) if known is None else _version(known)

    async def move(self, version: Version, standing: Standing, *, force: bool) -> None:
        """See Remote.move."""
        new = NewVersion(
            node_id=self._settings.node_id,
            epoch=version.epoch,
            sha256=version.sha256,
            key=version.key,
            db_size=version.db_size,
            counts=version.counts,
            based_on=version.based_on,
            force=force,
        )
        try:
            await self._client.add_version(self._cid, new)
        except MembridgeRefused as error:
            raise _meaning(error) from None

    async def restore(self, version: Version, standing: Standing) -> None:
        """See Remote.restore."""
        request = RestoreVersion(node_id=self._settings.node_id, epoch=standing.epoch or 0)
        try:
            await self._client.restore_version(self._cid, version.sha256, request)
        except MembridgeRefused as error:
            raise _meaning(error) from None

    async def history(self) -> Sequence[Version]:
        """See Remote.history."""
        return [_version(each) for each in await self._client.versions(self._cid)]

    async def forget(self, version: Version) -> None:
        """See Remote.forget."""
        try:
            await self._client.forget_version(self._cid, version.sha256)
        except MembridgeRefused as error:
            if error.status != 404:
                raise

    async def publish(self, version: Version) -> None:
        """See Remote.publish."""
        await self._store.put(self._keys.pointer, encode_version(version), content_type="application/json")


def _version(fields: VersionFields) -> Version:
    return Version(**fields.model_dump())


def _meaning(error: MembridgeRefused) -> SyncError:
    if error.code == "stale_epoch":
        return PushRefused("this node does not lead any more; nothing was changed", code="stale_epoch")
    if error.code == "remote_moved":
        return RemoteMoved("the remote memory has moved on since this node last synced; pull it (--merge keeps both)")
    return error


def addresses() -> list[str]:
    """This machine's own addresses. Asks the kernel, not a name server, which may be far away."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = {each.address for card in psutil.net_if_addrs().values() for each in card if each.family in families}
    return sorted(address for address in found if address not in ("127.0.0.1", "::1") and "%" not in address)[:16]
