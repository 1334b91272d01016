"""Server-Sent Events as the HTML standard defines them (section 9.2.6, interpreting an event stream), incremental."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_EVENT_CHARS = 64 * 1024 * 1024
"""A stream that sends more than this without an event's end is not one of ours."""

_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One event before its data is understood. `id` is the last id seen on this stream."""

    id: str | None
    event: str
    data: str


@dataclass(frozen=True, slots=True)
class SseMessage:
    """One event with its data parsed from JSON. `id` is what Last-Event-ID has to say to go on behind it."""

    id: str | None
    event: str
    data: Any


class EventTooLong(Exception):
    """More than MAX_EVENT_CHARS without the end of an event."""


class EventParser:
    """Bytes in any cut → events. One parser per connection."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")  # -sig: drops one leading BOM
        self._pieces: list[str] = []  # an unfinished line
        self._length = 0
        self._after_cr = False
        self._last_id: str | None = None
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[RawEvent]:
        """The events that `chunk` completes. Raises EventTooLong."""
        text = self._decoder.decode(chunk)
        if not text:
            return
        if self._after_cr and text.startswith("\n"):  # a CRLF that was cut in two
            text = text[1:]
            self._after_cr = False
            if not text:
                return
        self._after_cr = text.endswith("\r")
        self._length += len(text)
        lines = _LINE_END.split(text)
        for line in lines[:-1]:
            self._pieces.append(line)
            whole = "".join(self._pieces)
            self._pieces.clear()
            if (event := self._take_line(whole)) is not None:
                yield event
        self._pieces.append(lines[-1])
        if self._length > MAX_EVENT_CHARS:
            raise EventTooLong

    def _take_line(self, line: str) -> RawEvent | None:
        if not line:
            self._length = 0
            data, event = self._data, self._event
            self._data, self._event = [], ""
            return RawEvent(self._last_id, event or "message", "\n".join(data)) if data else None
        if line.startswith(":"):
            if not self._data:
                self._length = 0
            return None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._event = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._last_id = value
            case _:  # `retry` and unknown fields: the caller has its own backoff
                pass
        return None
