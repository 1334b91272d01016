"""The directory of the Unix socket: private, and short enough for the kernel (sun_path holds 108 bytes, unix(7))."""

import hashlib
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bloom.base.errors import ConfigurationError
from bloom.db.postgres_account import Account

PORT = 5432
"""Only a part of the socket's name: the server listens on no network."""

SOCKET_NAME = f".s.PGSQL.{PORT}"

_PATH_LIMIT = 107 if sys.platform == "linux" else 103


def make_socket_dir(data_dir: Path, account: Account) -> Path:
    """The empty directory for the socket of the server of `data_dir`: mode 700, owned by `account`.

    The caller holds the lock of `data_dir`, so whatever lies in there is stale. The temporary directory comes before
    XDG_RUNTIME_DIR, which the system removes when the user's last session ends. Raises ConfigurationError
    (`socket_dir_unusable`) when no place will do.
    """
    name = f"bloom-{account.uid}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]}"
    places = dict.fromkeys((tempfile.gettempdir(), "/tmp", os.environ.get("XDG_RUNTIME_DIR", "")))  # noqa: S108
    for place in places:
        directory = Path(place) / name
        if place and len(os.fsencode(directory / SOCKET_NAME)) <= _PATH_LIMIT and _made_private(directory, account):
            return directory
    raise ConfigurationError(
        "no private directory for PostgreSQL's socket could be made: TMPDIR must name a directory with a short path "
        "where only the owner of an entry may remove it",
        code="socket_dir_unusable",
        tried=", ".join(place for place in places if place),
    )


def remove_socket_dir(directory: Path) -> None:
    """Remove the directory and what is in it; nothing when it is gone."""
    with suppress(OSError):
        for entry in directory.iterdir():
            entry.unlink()
        directory.rmdir()


def _made_private(directory: Path, account: Account) -> bool:
    try:
        place = directory.parent.stat()
        if place.st_uid not in (0, os.geteuid()) or (place.st_mode & 0o022 and not place.st_mode & stat.S_ISVTX):
            return False
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        # lstat: another user may have put a link or a directory of his own here first.
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in (account.uid, os.geteuid()):
            return False
        if found.st_uid != account.uid:
            os.chown(directory, account.uid, account.gid)
        for entry in directory.iterdir():
            entry.unlink()
    except OSError:
        return False
    return True
