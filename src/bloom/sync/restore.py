"""History, and the way back: an old version becomes the current one, and the local memory."""

from collections.abc import Sequence
from dataclasses import replace

from bloom.sync.bucket_remote import BucketRemote
from bloom.sync.errors import BadDatabase, PushRefused, SyncError
from bloom.sync.failpoints import reach
from bloom.sync.model import Outcome, Version
from bloom.sync.node import Node, working
from bloom.sync.pull import look
from bloom.sync.push import describe, lock_of, repair_plain
from bloom.sync.replacing import fetch, replace_local, require_memory

_SHORTEST = 4


async def history(node: Node) -> tuple[Sequence[Version], str | None]:
    """All versions, newest first, and a warning (the control plane is away, or the bucket damaged). Raises SyncError.

    The copies of plain clients that were kept (epoch 0) stand in the bucket alone.
    """
    situation = await look(node, None)
    known = list(await situation.remote.history())
    if node.service is not None and situation.warning is None:
        shas = {each.sha256 for each in known}
        stored = await BucketRemote(node.store, node.settings, conditions=False).history()
        known += [replace(each, current=False) for each in stored if each.epoch == 0 and each.sha256 not in shas]
    return sorted(known, key=lambda each: each.created_at_ms, reverse=True), "; ".join(situation.warnings) or None


async def restore(node: Node, wanted: str, *, dry_run: bool = False) -> Outcome:
    """Make the version whose SHA-256 begins with `wanted` current and the local memory: `restored`, `would_restore`.

    Only the primary may. What was current stays in the history, what was here is kept as a copy; cut off anywhere, the
    same command finishes it. Raises SyncError, PushRefused, BlobUnavailable, OSError.
    """
    async with working(node):
        version = _choose((await history(node))[0], wanted)
        remote = await node.remote(writes=not dry_run)
        try:
            local = node.snapshot()
        except BadDatabase:
            local = None
        standing = await remote.standing(local, asks=not dry_run)
        if not standing.may_push:
            raise PushRefused(f"only the primary restores: {standing.reason}; nothing was changed")
        require_memory(node)
        if dry_run:
            return Outcome("would_restore", f"would restore {describe(version)}", detail={"sha256": version.sha256})
        fetched = await fetch(node, version)
        async with lock_of(node, standing.epoch or 0):
            if version.epoch == 0:
                entered = replace(version, epoch=standing.epoch or 0, node_id=node.settings.node_id, based_on=None)
                await remote.move(entered, standing, force=True)
            else:
                await remote.restore(version, standing)
            reach("restore.pointer_moved")
            warnings = await repair_plain(node, remote)
        is_here = local is not None and local.sha256 == fetched.sha256
        kept = None if is_here else replace_local(node)
        node.remember_sync(version.sha256, fetched.sha256)
        message = f"restored {describe(replace(version, counts=fetched.counts))}"
        message += "" if kept is None else f"; what was here is kept at {kept}"
        detail = {"sha256": version.sha256, "backup": None if kept is None else str(kept)}
        return Outcome("restored", message, tuple(warnings), detail)


def _choose(versions: Sequence[Version], wanted: str) -> Version:
    found = {each.sha256: each for each in reversed(versions) if each.sha256.startswith(wanted.lower())}
    if len(wanted) < _SHORTEST or len(found) > 1:
        raise SyncError(f"{wanted!r} does not name one version; give more digits of its hash", code="ambiguous_version")
    if not found:
        raise SyncError(f"there is no version {wanted!r}; `bloom sync history` lists them", code="no_version")
    return next(iter(found.values()))
