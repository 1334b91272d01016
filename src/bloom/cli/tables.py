"""Plain tables for terminals and pipes: columns by width, the last one takes what is left."""

import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from bloom.cli.terminal import clean_line, is_terminal, paint

_GAP = "  "
_MIN_LAST = 10
_LAST_IN_PIPE = 80


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell. `colour` as in `terminal.paint`; shown on a terminal only."""

    text: str
    colour: str = ""


STATE_COLOURS = {
    "queued": "cyan",
    "leased": "yellow",
    "running": "yellow",
    "completed": "green",
    "success": "green",
    "online": "green",
    "draining": "yellow",
    "syncing": "yellow",
    "failed": "red",
    "dead": "red",
    "error": "red",
    "offline": "dim",
    "unknown": "dim",
    "cancelled": "dim",
    "rejected": "yellow",
}


def state_cell(state: str) -> Cell:
    """A state in its colour."""
    return Cell(state, STATE_COLOURS.get(state, ""))


def text_width(text: str) -> int:
    """How many columns of a terminal `text` takes: none for combining characters, two for wide ones."""
    return sum(_char_width(character) for character in text)


def cut_to_width(text: str, width: int) -> str:
    """`text` on one line, cut with an ellipsis to `width` columns."""
    line = clean_line(text)
    if text_width(line) <= width:
        return line
    used = 0
    for index, character in enumerate(line):
        used += _char_width(character)
        if used > width - 1:
            return line[:index] + "…"
    return line


def print_table(header: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> None:
    """Write `rows` under `header` to stdout. On a terminal the last column is cut to the width; no other column is."""
    cells = [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]
    cells = [[Cell(clean_line(cell.text) or "-", cell.colour) for cell in row] for row in cells]
    last = len(header) - 1
    widths = [
        max(text_width(text) for text in (title, *(row[i].text for row in cells))) for i, title in enumerate(header)
    ]
    taken = sum(widths[:last]) + len(_GAP) * last
    room = max(_terminal_width() - taken, _MIN_LAST) if is_terminal(sys.stdout) else _LAST_IN_PIPE
    for row in [[Cell(title, "bold") for title in header], *cells]:
        parts = [
            paint(c.text, c.colour, sys.stdout) + " " * (widths[i] - text_width(c.text)) for i, c in enumerate(row)
        ]
        parts[last] = paint(cut_to_width(row[last].text, room), row[last].colour, sys.stdout)
        print(_GAP.join(parts))


def print_fields(fields: Sequence[tuple[str, str | Cell]]) -> None:
    """Write names and values in two columns to stdout; empty values are left out."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        cell = value if isinstance(value, Cell) else Cell(value)
        if cell.text:
            print(f"{name:<{width}}{_GAP}{paint(clean_line(cell.text), cell.colour, sys.stdout)}")


def _terminal_width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _char_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
