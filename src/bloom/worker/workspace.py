"""The worker's directories: one per context, in which its tasks run, and which files of a directory a task may name."""

import hashlib
import os
import re
from pathlib import Path

_READABLE = re.compile(r"[^A-Za-z0-9._-]+")
_READABLE_CHARS = 40
_LONGEST_HINT = 1024


def safe_name(key: str) -> str:
    """A file name for any key: its readable part, and a digest that keeps different keys apart.

    Lower case only, so that they stay apart on file systems that ignore case too.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    readable = _READABLE.sub("-", key.lower())[:_READABLE_CHARS].strip("-.")
    return f"{readable}-{digest}" if readable else digest


class Workspace:
    """What a worker keeps under `root`: working directories, sessions (which is whose) and output."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sessions = root / "sessions"

    def working_directory(self, context_id: str, configured: str | None = None) -> Path:
        """Where tasks of a context run: the directory that the agent's settings name, which must be there, else the
        context's own, made when missing, for this user only. Raises OSError.
        """
        if configured is not None:
            os.scandir(configured).close()  # raises where it is missing, no directory, or closed to us
            return Path(configured)
        directory = self.root / "contexts" / safe_name(context_id)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory

    def output_directory(self) -> Path:
        """Where the output of running children is kept, made when missing. Raises OSError."""
        directory = self.root / "output"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory


def is_inside(path: str, directory: Path) -> bool:
    """Whether `path`, relative to `directory`, leads to something inside it once every symbolic link is followed."""
    real_directory = os.path.realpath(directory)
    return os.path.realpath(os.path.join(real_directory, path)).startswith(real_directory.rstrip("/") + "/")  # noqa: PTH118


def file_inside(hint: str, directory: Path) -> str | None:
    """The path, relative to `directory`, of the regular file that `hint` names; None when it names none inside it.

    Absolute paths, `~`, NUL and links that lead out name none. The answer has its links resolved.
    """
    if not hint or len(hint) > _LONGEST_HINT or "\x00" in hint or hint.startswith(("/", "~")):
        return None
    try:
        real = os.path.realpath(directory / hint)
        if not is_inside(hint, directory) or not Path(real).is_file():
            return None
    except (OSError, ValueError):  # a name that is too long, a loop of links, a lone surrogate
        return None
    return os.path.relpath(real, os.path.realpath(directory))
