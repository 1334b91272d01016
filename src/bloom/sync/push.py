"""Push: the local memory becomes the current version of its project."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from bloom.blobs.errors import BlobError
from bloom.sync.copies import try_to_make_plain_current, upload
from bloom.sync.errors import BadDatabase, BadPointer, PushRefused, RemoteMoved, SyncError
from bloom.sync.failpoints import reach
from bloom.sync.model import Outcome, Snapshot, Standing, Version
from bloom.sync.node import Node, now_ms, working
from bloom.sync.project_lock import Holder, project_lock, remove_left_lock
from bloom.sync.pruning import prune
from bloom.sync.remote import Remote


async def push(node: Node, *, force: bool = False, dry_run: bool = False) -> Outcome:
    """Make a snapshot of the local database current, and tell how it went: `pushed`, `equal`, `would_push`.

    The last good version stays current until the pointer has moved, wherever this is cut off. `force` pushes over a
    remote that has moved on. Raises PushRefused, RemoteMoved, Locked, BadDatabase and other SyncErrors, BlobUnavailable,
    OSError.
    """
    async with working(node):
        try:
            local = node.snapshot()
        except BadDatabase as error:
            error.message += "; nothing was pushed, `bloom sync doctor` says what helps"
            raise
        if local is None:
            raise SyncError(f"there is no database at {node.files.database}; nothing to push", code="no_database")
        reach("push.snapshot_taken")
        remote = await node.remote(writes=not dry_run)
        force = force or node.settings.force_push
        try:
            current = await remote.current()
        except BadPointer:
            if not force:
                raise
            current = None
        if current is not None and node.is_equal(local, current.sha256):
            return await _equal(node, remote, local, current, dry_run=dry_run)
        standing = await remote.standing(local, asks=not dry_run)
        _require_right(node, standing)
        based_on = node.state.synced
        if current is not None:
            # A push that was cut off behind the pointer was ours all the same.
            if node.state.intent == current.sha256:
                based_on = current.sha256
            if current.sha256 != based_on and not force:
                raise RemoteMoved(
                    "the remote memory has moved on since this node last synced; pull it (--merge keeps both), or push "
                    "over it with --force"
                )
        if dry_run:
            lead = f" ({standing.reason})" if standing.takes_lead else ""
            return Outcome("would_push", f"would push {describe(local)}{lead}", detail=_detail(local, standing))
        return await _make_current(node, remote, standing, based_on, force=force)


async def _equal(node: Node, remote: Remote, local: Snapshot, current: Version, *, dry_run: bool) -> Outcome:
    warnings: list[str] = []
    if not dry_run:
        node.remember_sync(current.sha256, local.sha256)
        warnings = await repair_plain(node, remote)
        await remove_left_lock(node.store, node.keys.lock, node.state.owner, ttl_sec=node.settings.lock_ttl_sec)
    return Outcome("equal", f"already equal: {describe(local)}", tuple(warnings), {"sha256": current.sha256})


async def _make_current(
    node: Node, remote: Remote, standing: Standing, based_on: str | None, *, force: bool
) -> Outcome:
    local = node.snapshot(as_file=True)
    if local is None:
        raise SyncError("the database has vanished; nothing was pushed", code="no_database")
    epoch = standing.epoch or 0
    version = Version(
        local.sha256,
        epoch,
        node.keys.version(epoch, local.sha256),
        local.db_size,
        local.counts,
        node.settings.node_id,
        based_on,
        now_ms(),
        current=True,
    )
    async with lock_of(node, epoch):
        reach("push.locked")
        await upload(node.store, node.keys, version, node.files.snapshot, socket.gethostname())
        node.remember(intent=version.sha256)
        reach("push.intent_saved")
        await remote.move(version, standing, force=force)
        reach("push.pointer_moved")
        node.remember_sync(version.sha256, local.sha256)
        reach("push.state_saved")
        warnings = await repair_plain(node, remote, is_snapshot_of=version.sha256)
        try:
            await prune(node, remote)
        except (BlobError, SyncError) as error:
            warnings.append(f"old versions were not pruned ({error.message})")
        reach("push.pruned")
    reach("push.unlocked")
    return Outcome("pushed", f"pushed {describe(local)}", tuple(warnings), _detail(local, standing))


@asynccontextmanager
async def lock_of(node: Node, epoch: int) -> AsyncGenerator[None]:
    """The project's lock in the bucket, for this node in `epoch`. Raises Locked, BlobUnavailable."""
    host, keys = socket.gethostname(), node.keys
    holder = Holder(node.state.owner, node.settings.node_id, host, keys.project, keys.canonical_id, epoch)
    async with project_lock(
        node.store,
        keys.lock,
        holder,
        ttl_sec=node.settings.lock_ttl_sec,
        grace_sec=node.settings.lock_grace_sec,
        conditions=await node.conditions(),
    ):
        yield


async def repair_plain(node: Node, remote: Remote, *, is_snapshot_of: str | None = None) -> list[str]:
    """Let plain clients find what is current; warnings when that fails. `is_snapshot_of`: what `files.snapshot` holds."""
    return await try_to_make_plain_current(
        remote,
        node.store,
        node.keys,
        published=node.service is not None,
        source_host=socket.gethostname(),
        local=None if is_snapshot_of is None else (is_snapshot_of, node.files.snapshot),
    )


def _require_right(node: Node, standing: Standing) -> None:
    if _may_push(node, standing):
        return
    raise PushRefused(f"this node ({node.settings.node_id}) is not the primary: {standing.reason}; nothing was pushed")


def _may_push(node: Node, standing: Standing) -> bool:
    # Where PostgreSQL fences, it would refuse a secondary after the upload.
    return standing.may_push or (node.settings.allow_secondary_push and node.service is None)


def how_to_push(node: Node, standing: Standing) -> str:
    """What brings to the others what only this node has, in words."""
    if _may_push(node, standing):
        return "bloom sync push brings what is new here to the others"
    me, who = node.settings.node_id, f" ({standing.primary})" if standing.primary else ""
    way = "select it in Membridge" if node.service else f"PRIMARY_NODE_ID={me}, once the present lease has ended"
    return f"only the primary{who} pushes: to push what is new here, make this node ({me}) primary ({way}), then push"


def describe(local: Snapshot | Version) -> str:
    """What is in a database, in words: "3 observations, 1 summary, 2 prompts (abc123def456)"."""
    words = {"observations": "observation", "session_summaries": "summary", "user_prompts": "prompt"}
    plurals = {"session_summaries": "summaries"}
    parts = [
        f"{count} {word if count == 1 else plurals.get(name, word + 's')}"
        for name, word in words.items()
        if (count := local.counts.get(name)) is not None
    ]
    return f"{', '.join(parts) or 'a database'} ({local.sha256[:12]})"


def _detail(local: Snapshot, standing: Standing) -> dict[str, object]:
    return {"sha256": local.sha256, "db_size": local.db_size, **local.counts, "epoch": standing.epoch}
