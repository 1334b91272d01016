"""What a terminal may be sent: text without control sequences, short times, JSON that is one document."""

import json
import os
import re
import sys
import time
from typing import Any, TextIO

_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor moves
    r"|\x1b[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # OSC and the other strings: titles, links, the clipboard
    r"|\x9b[0-?]*[ -/]*[@-~]"  # CSI as one C1 character
    r"|\x1b[ -/]*[0-~]"  # all other escapes
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_COLOURS = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
_BYTE_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_C1 = re.compile(r"[\x7f-\x9f]")


def clean(text: str) -> str:
    """`text` without escape sequences and without C0 and C1 characters, save newline and tab.

    What a model writes, or how a worker is named, must not move the cursor, set the title or fill the clipboard. A
    sequence that is cut between two calls loses its escape character, so that its rest is harmless text.
    """
    return _CONTROL.sub("", _SEQUENCE.sub("", text))


def clean_line(text: str, limit: int | None = None) -> str:
    """`clean`, on one line, without characters that reorder it, and cut to `limit` characters if one is given."""
    line = " ".join(_REORDERING.sub("", clean(text.replace("\r", "\n"))).split())
    if limit is not None and len(line) > limit:
        return line[: limit - 1] + "…"
    return line


def print_json(document: Any) -> None:
    """Write `document` to stdout as one JSON document. C1 characters are escaped: a terminal would obey them."""
    text = json.dumps(document, ensure_ascii=False, indent=2)
    print(_C1.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at `stream`; one that was closed before the start is None."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def paint(text: str, colour: str, stream: TextIO) -> str:
    """`text` in `colour` (red, green, yellow, cyan, dim, bold) where `stream` is a terminal that wants colours.

    NO_COLOR (no-color.org) and TERM=dumb turn them off.
    """
    if not colour or not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def make_output_robust() -> None:
    """Let no character that the terminal's encoding lacks end the program."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def byte_size(count: float) -> str:
    """`count` bytes in the unit that suits: "312 B", "4 MiB"."""
    for unit in _BYTE_UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} {_BYTE_UNITS[-1]}"


def short_duration(seconds: float) -> str:
    """`seconds` in the two largest units: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min", "4 d 1 h"."""
    whole = round(max(seconds, 0))
    if whole < 10:
        return f"{max(seconds, 0):.1f} s"
    if whole < 60:
        return f"{whole} s"
    units = (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86_400, "h", 3600))
    unit, size, lower, lower_size = units[(whole >= 3600) + (whole >= 86_400)]
    rest = whole % size // lower_size
    return f"{whole // size} {unit} {rest} {lower}" if rest else f"{whole // size} {unit}"


def ago(epoch_ms: int | None, now_sec: float | None = None) -> str:
    """How long ago `epoch_ms` was, in one unit: "5 s ago", "3 min ago"; "-" for None. `now_sec` is for tests."""
    if epoch_ms is None:
        return "-"
    seconds = int((time.time() if now_sec is None else now_sec) - epoch_ms / 1000)
    if seconds < 1:  # or the clock of this machine is behind the runtime's
        return "just now"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
