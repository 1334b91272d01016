"""The output of a program while it grows: in memory as long as it is short, then in a file."""

import asyncio
import os
from io import BufferedWriter
from pathlib import Path

from bloom.base.text import make_storable

IN_MEMORY_BYTES = 8 * 1024 * 1024
MAX_WITHOUT_FILE_BYTES = 32 * 1024 * 1024
MAX_BYTES = 2 * 1024**3
"""What a runtime takes by default. Beyond it a program only fills the disk."""


class TooMuchOutput(Exception):
    """The program writes more than any runtime takes. The argument is the limit in bytes."""


class GrowingOutput:
    """Text that grows at its end. Where it outgrows the memory it goes into the file `path`, if there is one, as text that
    can be stored; `replaced` counts the characters of it that could not. `broken`: why its end is not in the file.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._pieces: list[str] = []
        self._size = 0
        self._file: BufferedWriter | None = None
        self.replaced = 0
        self.broken: str | None = None

    @property
    def path(self) -> Path | None:
        """The file that it is in, None while it is in memory."""
        return None if self._file is None else self._path

    @property
    def text(self) -> str:
        """What is in memory."""
        return "".join(self._pieces)

    async def add(self, text: str) -> None:
        """Append `text`. Raises TooMuchOutput, or OSError when the disk does not take it."""
        self._size += len(text.encode(errors="replace"))
        limit = MAX_WITHOUT_FILE_BYTES if self._path is None else MAX_BYTES
        if self._size > limit:
            raise TooMuchOutput(limit)
        if self._file is None and (self._path is None or self._size <= IN_MEMORY_BYTES):
            self._pieces.append(text)
        else:
            await asyncio.to_thread(self._write, text)

    def close(self) -> None:
        """Write out what is not in the file yet."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self.broken = error.strerror

    def _write(self, text: str) -> None:
        if self._file is None:
            if self._path is None:
                raise FileNotFoundError
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._file = os.fdopen(os.open(self._path, flags, 0o600), "wb")
            text = "".join([*self._pieces, text])
            self._pieces.clear()
        storable, replaced = make_storable(text)
        self.replaced += replaced
        self._file.write(storable.encode())
