"""Whether a file holds one JSON text (RFC 8259), told in bounded memory: outputs that matter here are larger than that."""

import re
from enum import Enum, auto
from pathlib import Path

_BLOCK_BYTES = 256 * 1024
_LONGEST_ATOM = 4096
_DEEPEST = 1000

_SPACE = re.compile(rb"[ \t\n\r]*+")
_CHARACTERS = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+')
_ATOM = re.compile(rb"[-+.0-9a-zA-Z]++")
_KNOWN_ATOM = re.compile(rb"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LONGEST_ESCAPE = 6


class _Next(Enum):
    """What may come."""

    VALUE = auto()
    VALUE_OR_END = auto()
    NAME = auto()
    NAME_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    NOTHING = auto()


_VALUES = (_Next.VALUE, _Next.VALUE_OR_END)
_NAMES = (_Next.NAME, _Next.NAME_OR_END)


def is_json_file(path: Path) -> bool:
    """Whether the file (UTF-8) holds one JSON value, nested no deeper than 1,000, and nothing else. Raises OSError."""
    scanner = _Scanner()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            if not scanner.feed(block):
                return False
    return scanner.feed(b"", last=True) and scanner.complete


class _Scanner:
    """Reads a JSON text piece by piece."""

    def __init__(self) -> None:
        self._rest = b""
        self._open = bytearray()
        self._next = _Next.VALUE
        self._in_string = False

    @property
    def complete(self) -> bool:
        """Whether one value was read."""
        return self._next is _Next.NOTHING and not self._in_string and not self._rest

    def feed(self, block: bytes, *, last: bool = False) -> bool:
        """Read on; False as soon as it cannot become JSON any more."""
        data = self._rest + block
        at = 0
        while True:
            read = self._read_string(data, at, last) if self._in_string else self._read_token(data, at, last)
            if read is None:
                return False
            if read == at:
                break
            at = read
        self._rest = data[at:]
        return len(self._rest) <= _LONGEST_ATOM

    def _read_string(self, data: bytes, at: int, last: bool) -> int | None:
        """The end of what could be read of a string, None for an error."""
        found = _CHARACTERS.match(data, at)
        end = at if found is None else found.end()
        if end == len(data):
            return end
        if data[end] == ord('"'):
            self._in_string = False
            return end + 1
        waits = data[end] == ord("\\") and len(data) - end < _LONGEST_ESCAPE and not last
        return end if waits else None

    def _read_token(self, data: bytes, at: int, last: bool) -> int | None:
        """The end of white space and one token; `at` again when more has to come first; None for an error."""
        found = _SPACE.match(data, at)
        start = at if found is None else found.end()
        if start == len(data):
            return start
        if data[start] == ord('"'):
            self._in_string = True
            return start + 1 if self._take_string() else None
        if (atom := _ATOM.match(data, start)) is None:
            return start + 1 if self._take_sign(data[start]) else None
        if atom.end() == len(data) and not last:
            return start
        if _KNOWN_ATOM.fullmatch(atom.group()) is None or self._next not in _VALUES:
            return None
        self._end_value()
        return atom.end()

    def _take_string(self) -> bool:
        if self._next in _NAMES:
            self._next = _Next.COLON
        elif self._next in _VALUES:
            self._end_value()
        else:
            return False
        return True

    def _take_sign(self, sign: int) -> bool:
        innermost = self._open[-1] if self._open else 0
        match chr(sign), self._next:
            case "{" | "[", _Next.VALUE | _Next.VALUE_OR_END if len(self._open) < _DEEPEST:
                self._open.append(sign)
                self._next = _Next.NAME_OR_END if sign == ord("{") else _Next.VALUE_OR_END
            case "}", _Next.NAME_OR_END | _Next.COMMA_OR_END if innermost == ord("{"):
                self._open.pop()
                self._end_value()
            case "]", _Next.VALUE_OR_END | _Next.COMMA_OR_END if innermost == ord("["):
                self._open.pop()
                self._end_value()
            case ",", _Next.COMMA_OR_END:
                self._next = _Next.NAME if innermost == ord("{") else _Next.VALUE
            case ":", _Next.COLON:
                self._next = _Next.VALUE
            case _:
                return False
        return True

    def _end_value(self) -> None:
        self._next = _Next.COMMA_OR_END if self._open else _Next.NOTHING
