"""What an import took, changed and left."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

SHOWN = 5
"""So many ids are named of each kind of problem."""


@dataclass(slots=True)
class Amount:
    """Of one of its tables."""

    found: int = 0
    taken: int = 0
    there: int = 0
    """Here already, from an earlier import."""


@dataclass(slots=True)
class Problem:
    """What was not taken as it was: rows of one table, for one reason."""

    table: str
    says: str
    rows: int = 0
    ids: list[str] = field(default_factory=list[str])


class Report:
    """Of all tables."""

    def __init__(self) -> None:
        self.amounts: defaultdict[str, Amount] = defaultdict(Amount)
        self._problems: dict[tuple[str, str], Problem] = {}

    def note(self, table: str, says: str, ids: Iterable[str], *, rows: int | None = None) -> None:
        """Rows of `table` that were left or changed; `rows` when there are more than `ids`."""
        named = list(ids)
        problem = self._problems.setdefault((table, says), Problem(table, says))
        problem.rows += len(named) if rows is None else rows
        problem.ids += named[: SHOWN - len(problem.ids)]

    @property
    def problems(self) -> list[Problem]:
        """By table."""
        return [self._problems[key] for key in sorted(self._problems)]

    def as_json(self) -> dict[str, Any]:
        """In the form of JSON."""
        return {
            "tables": {
                name: {"found": each.found, "taken": each.taken, "there": each.there}
                for name, each in self.amounts.items()
            },
            "problems": [
                {"table": each.table, "says": each.says, "rows": each.rows, "ids": each.ids} for each in self.problems
            ],
        }
