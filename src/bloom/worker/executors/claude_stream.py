"""Bytes of `claude --output-format stream-json` → JSON objects, one per line, lines of any length.

The CLI prints a `rate_limit_event` from another place than the rest, so it may stand in the middle of another line,
with or without a line end of its own; both objects are recovered. A line that is no object is counted and left out.
"""

import json
from collections.abc import Iterator
from typing import Any, cast

MAX_LINE_BYTES = 96 * 1024 * 1024
"""A longer line is not kept: an answer that large could not be reported anyway."""

_INTRUDER = '{"type":"rate_limit_event"'


class StreamDecoder:
    """Feed it the output as it comes; it yields each object once its line is whole."""

    def __init__(self) -> None:
        self.garbage_lines = 0
        self._buffer = bytearray()
        self._scanned = 0
        self._fragment = ""

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """The objects that `chunk` completes."""
        self._buffer += chunk
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0:
            line = self._buffer[:end].decode(errors="replace")
            del self._buffer[: end + 1]
            self._scanned = 0
            yield from self._objects(line)
        self._scanned = len(self._buffer)
        if self._scanned > MAX_LINE_BYTES:
            self._buffer.clear()
            self._scanned = 0
            self.garbage_lines += 1

    def finish(self) -> Iterator[dict[str, Any]]:
        """What the end of the output leaves: a last line without a line end; a fragment becomes garbage."""
        if self._buffer:
            yield from self._objects(self._buffer.decode(errors="replace"))
            self._buffer.clear()
        if self._fragment:
            self.garbage_lines += 1
            self._fragment = ""

    def _objects(self, line: str) -> Iterator[dict[str, Any]]:
        if not line.strip():
            return
        if (whole := _parse(line)) is not None:
            yield whole
            return
        line, intruders = _take_out_intruders(line)
        yield from intruders
        for candidate in (line, self._fragment + line):
            if (mended := _parse(candidate)) is not None:
                if candidate is not line:
                    self._fragment = ""
                yield mended
                return
        if line.startswith("{"):
            # The beginning of a line whose rest comes behind the object that split it.
            self.garbage_lines += bool(self._fragment)
            self._fragment = line
        elif line.strip():
            self.garbage_lines += 1


def _parse(text: str) -> dict[str, Any] | None:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None


def _take_out_intruders(line: str) -> tuple[str, list[dict[str, Any]]]:
    """`line` without the rate limit events inside it, and those. Inside a JSON string their quotes would be escaped."""
    found: list[dict[str, Any]] = []
    start = line.find(_INTRUDER)
    while start >= 0:
        try:
            event, end = json.JSONDecoder().raw_decode(line, start)
        except (ValueError, RecursionError):
            start = line.find(_INTRUDER, start + 1)
            continue
        found.append(event)
        line = line[:start] + line[end:]
        start = line.find(_INTRUDER, start)
    return line, found
