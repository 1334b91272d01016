"""How this node stands: what is here, what is there, who leads, what to do next. Changes nothing."""

import time
from dataclasses import dataclass

from bloom.blobs.errors import BlobMissing
from bloom.sync.copies import is_plain_current
from bloom.sync.errors import BadDatabase
from bloom.sync.model import Snapshot, Standing, Version
from bloom.sync.node import Node, working
from bloom.sync.project_lock import LockFields, read_lock
from bloom.sync.pull import look
from bloom.sync.push import how_to_push


@dataclass(frozen=True, slots=True)
class Status:
    """`relation` of local and remote: equal, local_ahead, remote_ahead, diverged, no_remote, no_local, broken_local,
    broken_remote.
    """

    standing: Standing
    local: Snapshot | None
    remote: Version | None
    relation: str
    plain_is_current: bool | None
    lock: LockFields | None
    synced_at_ms: int | None
    advice: str
    warning: str | None


async def status(node: Node) -> Status:
    """Look at everything once. Raises SyncError, BlobUnavailable, OSError."""
    async with working(node):
        is_broken = False
        try:
            local = node.snapshot()
        except BadDatabase:
            local, is_broken = None, True
        situation = await look(node, local)
        current = situation.current
        relation = _relation(node, local, current)
        if situation.bad_pointer is not None:
            relation = "broken_remote"
        relation = "broken_local" if is_broken else relation
        plain = None
        if current is not None and current.key != node.keys.plain:
            published = node.service is not None and situation.warning is None
            plain = await is_plain_current(node.store, node.keys, current, published=published)
        return Status(
            situation.standing,
            local,
            current,
            relation,
            plain,
            await lock_in_force(node),
            node.state.synced_at_ms,
            _advice(node, relation, situation.standing),
            "; ".join(situation.warnings) or None,
        )


async def lock_in_force(node: Node) -> LockFields | None:
    """The lock of a push under way or cut off, None when it has ended."""
    try:
        lock = read_lock(await node.store.get(node.keys.lock), node.settings.lock_ttl_sec)
    except BlobMissing:
        return None
    ends_at = lock.expires_at_ms / 1000 + node.settings.lock_grace_sec
    return lock if ends_at > time.time() else None


def _relation(node: Node, local: Snapshot | None, current: Version | None) -> str:
    if local is None:
        return "no_local"
    if current is None:
        return "no_remote"
    if node.is_equal(local, current.sha256):
        return "equal"
    if current.sha256 in (node.state.synced, node.state.intent):
        return "local_ahead"
    return "remote_ahead" if local.sha256 == node.state.synced_as else "diverged"


def _advice(node: Node, relation: str, standing: Standing) -> str:
    is_primary = standing.may_push
    unite = "bloom sync pull --merge unites both" + (", then push" if is_primary else "")
    advice = {
        "equal": "nothing to do",
        "no_remote": "bloom sync push" if is_primary else "the primary pushes first",
        "no_local": "bloom sync pull",
        "local_ahead": "bloom sync push" if is_primary else how_to_push(node, standing),
        "remote_ahead": unite if is_primary else "bloom sync pull",
        "diverged": unite,
        "broken_local": "bloom sync doctor",
        "broken_remote": "bloom sync push --force, or bloom sync restore VERSION"
        + ("" if is_primary else ", on the primary"),
    }
    return advice[relation]
