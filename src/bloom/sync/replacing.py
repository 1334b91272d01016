"""Another state of the memory takes the place of the local one: fetched aside, checked, what was there kept."""

import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bloom.sync.claude_mem_process import stopped_for
from bloom.sync.copies import download
from bloom.sync.database import (
    bring_in,
    copy,
    file_sha256,
    fingerprint,
    is_sqlite,
    remove_leftover,
    settle,
    take_snapshot,
)
from bloom.sync.errors import BadDatabase, DatabaseChanged, SyncError
from bloom.sync.failpoints import reach
from bloom.sync.model import Snapshot, Version
from bloom.sync.node import Node

_ATTEMPTS = 3
_COPIES = 4
"""How many files of the remote size there are for a moment: the download, its check, the journal, the database."""

Combine = Callable[[Path, Path, Path], None]
"""Writes to the third file what is to come in, from a copy of the local database and the fetched one."""


def require_memory(node: Node) -> None:
    """Return if what lies at the database's place may be replaced.

    A file that is no SQLite database may, if a sync of this project has seen one there: then it is that one, damaged.
    Raises BadDatabase.
    """
    if not is_foreign(node):
        return
    raise BadDatabase(
        f"{node.files.database} is not an SQLite database and never was one that this project synced; it was left alone: "
        "check CLAUDE_MEM_DB, or move the file away",
        code="not_a_memory",
    )


def is_foreign(node: Node) -> bool:
    """Whether the file at the database's place is no SQLite database, and was none when this project last synced."""
    has_been_seen = node.state.snapshot is not None or node.state.synced is not None
    return not has_been_seen and node.files.database.exists() and not is_sqlite(node.files.database)


async def fetch(node: Node, version: Version) -> Snapshot:
    """Fetch `version` to `files.download` and check it by hash and by SQLite; what it looks like as a local snapshot.

    Raises SyncError, BadDatabase, BlobUnavailable, OSError; the local database is untouched.
    """
    node.files.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    present = node.files.database.stat().st_size if node.files.database.exists() else 0
    needed, free = _COPIES * version.db_size + present, shutil.disk_usage(node.files.database.parent).free
    if free < needed:
        raise SyncError(
            f"the disk has {free >> 20} MiB free, and {(needed >> 20) + 1} MiB are needed for the memory and the copy of "
            "what it replaces; nothing was changed",
            code="disk_full",
        )
    await download(node.store, version, node.files.download)
    reach("pull.downloaded")
    try:
        taken = take_snapshot(node.files.download, node.files.snapshot)
    except BadDatabase as error:
        raise BadDatabase(
            f"version {version.sha256[:12]} is no sound database ({error.message}); nothing was changed: bring an older "
            "version back with `bloom sync restore`",
            code=error.code,
        ) from None
    remove_leftover(node.files.snapshot)
    reach("pull.checked")
    return taken


def replace_local(node: Node, combine: Combine | None = None) -> Path | None:
    """Bring `files.download`, or what `combine` makes of both, into the local database, in one transaction.

    Returns where the copy of what was there lies.

    Raises SyncError, OSError: then the local database is as it was.
    """
    with stopped_for(node.files.database):
        reach("pull.process_stopped")
        for _ in range(_ATTEMPTS - 1):
            try:
                kept = _attempt(node, combine)
                break
            except DatabaseChanged:
                continue
        else:
            kept = _attempt(node, combine)
        reach("pull.brought_in")
    reach("pull.process_started")
    _forget_old_backups(node)
    return kept


def _attempt(node: Node, combine: Combine | None) -> Path | None:
    database, source = node.files.database, node.files.download
    kept, expected = _keep(node) if database.exists() else (None, "")
    reach("pull.backed_up")
    if combine is not None and kept is not None:
        source = node.files.merged
        remove_leftover(source)
        combine(kept, node.files.download, source)
        reach("pull.merged")
    bring_in(source, database, expected=expected)
    return kept


def _keep(node: Node) -> tuple[Path, str]:
    """Copy the database to the backups; the copy, and the fingerprint of what was copied."""
    database, directory = node.files.database, node.files.backups
    directory.mkdir(mode=0o700, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    unfinished = directory / f"{stamp}.unfinished"
    try:
        expected = settle(database)
        copy(database, unfinished)
    except BadDatabase:
        # Not a database any more: its bytes are kept as they are.
        expected = fingerprint(database)
        shutil.copyfile(database, unfinished)
        unfinished.chmod(0o600)
    return unfinished.rename(directory / f"{stamp}-{file_sha256(unfinished)[:12]}.db"), expected


def _forget_old_backups(node: Node) -> None:
    """Keep the newest backup, and of the others those within the limits of age and number."""
    oldest = time.time() - node.settings.backup_days * 86_400
    for unfinished in node.files.backups.glob("*.unfinished*"):
        unfinished.unlink(missing_ok=True)
    backups = sorted(node.files.backups.glob("*.db"), reverse=True)
    for number, backup in enumerate(backups):
        if number >= node.settings.backup_count or (number > 0 and backup.stat().st_mtime < oldest):
            backup.unlink(missing_ok=True)
