"""What a node remembers of a database, in a file beside it; losing the file loses no data."""

import asyncio
import fcntl
import json
import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from bloom.sync.errors import Locked
from bloom.sync.model import LocalFiles, Snapshot

_WAIT_SEC = 30.0
_LOOK_SEC = 0.1


@dataclass(frozen=True, slots=True)
class SyncState:
    """`owner` names this database in locks. `place` says of which project in which store the rest speaks.

    `synced` is the remote version (its SHA-256) that this database last was, or was pushed as, `synced_as` the SHA-256 of
    the local snapshot then; `intent` the one that a push
    was about to make current. `conditions`: whether the store honours conditional writes, found at `probed_at_ms`.
    """

    owner: str
    place: str
    synced: str | None = None
    synced_as: str | None = None
    synced_at_ms: int | None = None
    intent: str | None = None
    snapshot: Snapshot | None = None
    conditions: bool | None = None
    probed_at_ms: int = 0


def load_state(path: Path, place: str) -> SyncState:
    """The state at `path`; a new one where there is none, where it is of another place or cannot be understood."""
    try:
        known = cast("dict[str, Any]", json.loads(path.read_bytes()))
        snapshot = known.pop("snapshot")
        state = SyncState(**known, snapshot=None if snapshot is None else Snapshot(**snapshot))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return SyncState(secrets.token_hex(8), place)
    return state if state.place == place else SyncState(state.owner, place)


def save_state(path: Path, state: SyncState) -> None:
    """Put `state` at `path`, whole and on the disk. Raises OSError."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(json.dumps(asdict(state)).encode())
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


@asynccontextmanager
async def sole_sync(files: LocalFiles) -> AsyncGenerator[None]:
    """Be the only sync of this database on this machine. The kernel ends the lock with the process.

    Waits up to 30 seconds. Raises Locked after that, OSError when the directory cannot be written to.
    """
    files.database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = asyncio.get_running_loop().time() + _WAIT_SEC
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if asyncio.get_running_loop().time() > until:
                    raise Locked("another sync of this database runs on this machine; try again") from None
                await asyncio.sleep(_LOOK_SEC)
        yield
    finally:
        os.close(descriptor)
