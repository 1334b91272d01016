"""Files that are whole or absent, whatever happens while they are written."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str, *, sync: bool) -> None:
    """Put `text` (UTF-8, mode 600) at `path` in one step; `sync`: it survives a loss of power. Raises OSError."""
    new = path.with_name(path.name + ".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(file, text.encode())
        if sync:
            os.fsync(file)
    finally:
        os.close(file)
    new.replace(path)
    if sync:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` survive a loss of power. Raises OSError."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def write_all(file: int, data: bytes) -> None:
    """Write all of `data` to the descriptor `file`. Raises OSError, after which a part of it may be there."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def read_at(file: int, start: int, length: int) -> bytes:
    """`length` bytes of the descriptor `file` from `start`; fewer at its end. Raises OSError."""
    parts: list[bytes] = []
    while length and (part := os.pread(file, length, start)):
        parts.append(part)
        start += len(part)
        length -= len(part)
    return b"".join(parts)
