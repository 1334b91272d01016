"""Two versions of one row become one: what only one side changed is taken, of what both changed the newer stays.

The rule does not depend on which side is which, and applying it again changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

_COUNTERS = ("_counter", "_count")


@dataclass(frozen=True)
class Difference:
    """A column that both sides fill differently. `first_stays`: whether the value of the first row was kept."""

    column: str
    first: Any
    second: Any
    first_stays: bool


def unite_rows(first: Row, second: Row, base: Row | None) -> tuple[dict[str, Any], list[Difference]]:
    """The united row and what both sides had changed. `base` is the row that both come from, where it is known.

    A value that only one side changed since `base` is taken. Otherwise: a value goes before NULL, the greater of two
    counters stays, then the value of the row that is newer by its own times (columns `..._epoch`, else `..._at`), and
    between rows of the same time the greater value.
    """
    row: dict[str, Any] = {}
    differences: list[Difference] = []
    ages = _age(first), _age(second)
    for column, mine in first.items():
        theirs = second[column]
        if _same(mine, theirs):
            row[column] = mine
            continue
        if base is not None and column in base and (_same(base[column], mine) or _same(base[column], theirs)):
            row[column] = theirs if _same(base[column], mine) else mine
            continue
        if mine is None or theirs is None:
            row[column] = theirs if mine is None else mine
            continue
        by_value = column.endswith(_COUNTERS) or ages[0] == ages[1]
        first_stays = _order(mine) > _order(theirs) if by_value else ages[0] > ages[1]
        row[column] = mine if first_stays else theirs
        differences.append(Difference(column, mine, theirs, first_stays))
    return row, differences


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _order(value: Any) -> tuple[int, Any, str]:
    """SQLite's order of values: numbers, text, blobs."""
    kind = 0 if isinstance(value, int | float) else 1 if isinstance(value, str) else 2
    return kind, value, type(value).__name__


def _age(row: Row) -> tuple[float, str]:
    epochs = [value for name, value in row.items() if name.endswith("_epoch") and isinstance(value, int | float)]
    texts = [value for name, value in row.items() if name.endswith("_at") and isinstance(value, str)]
    return max(epochs, default=0), max(texts, default="")
