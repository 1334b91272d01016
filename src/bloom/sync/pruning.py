"""Old versions go: a set number stays, and what is current always does."""

from datetime import UTC, datetime, timedelta

from bloom.blobs.interface import all_objects
from bloom.sync.model import Version
from bloom.sync.node import Node
from bloom.sync.remote import Remote, has_good_key

_CUT_OFF = timedelta(days=1)
"""A version without a manifest may belong to a push under way; after this time it does not."""


async def prune(node: Node, remote: Remote) -> int:
    """Remove all versions but the newest `keep_versions` and the current one; how many went.

    What is on no list: the rest of a push that was cut off goes after a day; a whole version (of a push that was refused, of
    a plain client) stays as long as the copies of pulls do.
    """
    history = await remote.history()
    gone = [each for each in history[node.settings.keep_versions :] if not each.current]
    for version in gone:
        await remote.forget(version)
        await _remove(node, version)
    listed = {each.key.rpartition("/")[0] for each in history}
    stored = await all_objects(node.store, node.keys.versions)
    whole = {each.key.rpartition("/")[0] for each in stored if each.key.endswith("/manifest.json")}
    now = datetime.now(UTC)
    for each in stored:
        directory = each.key.rpartition("/")[0]
        limit = timedelta(days=node.settings.backup_days) if directory in whole else _CUT_OFF
        if directory not in listed and now - each.modified > max(limit, _CUT_OFF):
            await node.store.delete(each.key)
    return len(gone)


async def _remove(node: Node, version: Version) -> None:
    if not has_good_key(version):  # whatever lies there is no version of ours
        return
    # The manifest first: a version without one counts as cut off, and is swept.
    await node.store.delete(node.keys.manifest_of(version.key))
    await node.store.delete(version.key)
