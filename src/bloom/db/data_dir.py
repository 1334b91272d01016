"""The data directory: private to its user, locked by the one process that runs it, with logs of bounded size."""

import fcntl
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO

from bloom.base.errors import ConfigurationError

LOG_LIMIT_BYTES = 8 * 1024 * 1024
"""A log above this size is set aside (`.1`, the one before it is dropped) when it is opened."""

_LOCK_NAME = "lock"
_DYING_HOLDER_SEC = 1.5
"""How long the lock of a process that is being killed, or is just stopping, is waited for."""


class DataDirLock:
    """The right to run what lives in one data directory. The kernel ends it with the process that holds it."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Make the directory when it is missing, make it private and take its lock; nothing when it is held already.

        Raises ConfigurationError: `data_dir_in_use` when another process holds the lock, `data_dir_unusable` when the
        directory cannot be made, belongs to somebody else or can be written by others.
        """
        if self._descriptor is not None:
            return
        _make_private(self._data_dir)
        descriptor = os.open(self._data_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, self._data_dir)
        except BaseException:
            os.close(descriptor)
            raise
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; nothing when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int, data_dir: Path) -> None:
    deadline = time.monotonic() + _DYING_HOLDER_SEC
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise ConfigurationError(
                "another BLOOM uses this data directory: stop that one, or set BLOOM_DATA_DIR to another directory",
                code="data_dir_in_use",
                data_dir=str(data_dir),
                held_by_pid=os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown",
            ) from None


def _make_private(data_dir: Path) -> None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = data_dir.stat()
        # A directory that was there before may serve other purposes: only an empty one or one of ours is closed.
        ours = (data_dir / _LOCK_NAME).exists() or not any(data_dir.iterdir())
    except OSError as error:
        raise _unusable("the data directory cannot be used", data_dir, reason=error.strerror or "unknown") from None
    if found.st_uid != os.geteuid():
        if os.geteuid() != 0 or any(data_dir.iterdir()):
            raise _unusable("the data directory belongs to another user: run as that one", data_dir, uid=found.st_uid)
        os.chown(data_dir, 0, 0)
    mode = stat.S_IMODE(data_dir.stat().st_mode)
    if ours and mode & 0o067:  # 710 is the work of bloom.db.postgres_account
        data_dir.chmod(0o700)
    elif mode & 0o022:
        raise _unusable("others may write in the data directory, and it holds things that are not BLOOM's", data_dir)


def _unusable(message: str, data_dir: Path, **detail: str | int) -> ConfigurationError:
    return ConfigurationError(
        f"{message}; BLOOM_DATA_DIR names another", code="data_dir_unusable", data_dir=str(data_dir), **detail
    )


def open_log(path: Path) -> BinaryIO:
    """The log at `path`, opened for appending, mode 600; set aside first when it has grown over LOG_LIMIT_BYTES."""
    try:
        if path.stat().st_size > LOG_LIMIT_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    except FileNotFoundError:
        pass
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` (mode 600) by `text`: a reader, or a crash, finds the old content or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Wait until the names in `directory` are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
