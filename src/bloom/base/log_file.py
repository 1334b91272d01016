"""The log file: set aside by size and by day, safe with several processes that write to it, and with logrotate.

The standard library's handlers do one or the other, and neither among processes. Here each line is appended whole, and
whoever finds the file full or of another day sets it aside under a lock of it; the others see that the file is another one,
and open it.
"""

import fcntl
import logging
import os
import re
import time
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import WatchedFileHandler
from pathlib import Path

_LONGEST_LINE = 256 * 1024

_REST_SEC = 60.0
"""After the file could not be set aside (a directory that this user may not write), for so long it is not tried again."""


class LogFile(WatchedFileHandler):
    """Appends to `path`. A file of `max_bytes`, or of another day, becomes `path.YYYYMMDD-HHMMSS`; of those the newest
    `keep_files` are kept, `keep_days` long. 0 for one of the four: not by it. Raises OSError when it cannot be opened.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep_days: int, keep_files: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep_days = keep_days
        self._keep_files = keep_files
        self._rests_until = 0.0
        super().__init__(path, encoding="utf-8", errors="replace")

    def emit(self, record: logging.LogRecord) -> None:
        """Append the line of `record`, to the file that has the name by then."""
        try:
            if self.stream is not None and self._is_due(self.stream) and time.monotonic() >= self._rests_until:
                self._set_aside(self.stream)
        except OSError:
            # The line goes where it can; a log that cannot be rotated is no reason to lose it.
            self._rests_until = time.monotonic() + _REST_SEC
        super().emit(record)

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        # Room for a whole line, which then is one write: those of several processes do not mix.
        return TextIOWrapper(os.fdopen(descriptor, "ab", _LONGEST_LINE), encoding="utf-8", errors="replace")

    def _is_due(self, stream: TextIOWrapper) -> bool:
        state = os.fstat(stream.fileno())
        if not state.st_size:
            return False
        if self._max_bytes and state.st_size >= self._max_bytes:
            return True
        return bool(self._keep_days) and _day(state.st_mtime) != _day(time.time())

    def _set_aside(self, stream: TextIOWrapper) -> None:
        fcntl.flock(stream, fcntl.LOCK_EX)  # of the file, whatever it is called by now
        try:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), self._path.stat()):
                    self._path.rename(self._free_name())
                    self._delete_old()
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)

    def _free_name(self) -> Path:
        stem = f"{self._path.name}.{time.strftime('%Y%m%d-%H%M%S')}"
        names = (stem, *(f"{stem}-{n}" for n in range(1, 1000)))
        return next(path for name in names if not (path := self._path.with_name(name)).exists())

    def _delete_old(self) -> None:
        named = re.compile(re.escape(self._path.name) + r"\.\d{8}-\d{6}(-\d+)?")
        aside = [path for path in self._path.parent.iterdir() if named.fullmatch(path.name)]
        aside.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        oldest = time.time() - self._keep_days * 86_400
        for n, path in enumerate(aside):
            if (self._keep_files and n >= self._keep_files) or (self._keep_days and path.stat().st_mtime < oldest):
                path.unlink(missing_ok=True)


def _day(seconds: float) -> tuple[int, int]:
    moment = time.localtime(seconds)
    return moment.tm_year, moment.tm_yday
