"""What must hold in the tables whenever no transaction is under way, and what breaks it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from bloom.db.pool import Connection, fetch_one
from bloom.db.queries import load_queries
from bloom.tasks.model import HELD, Command, TaskStatus, next_state

SHOWN = 5
"""So many of the rows that break an invariant are named."""

_SQL = load_queries("bloom.tasks.store", "invariants.sql")
_COUNT = _SQL.pop("count_broken")

INVARIANTS: Mapping[str, str] = {
    name: body.decode().partition("\n")[0].removeprefix("-- ").rstrip(".") for name, body in _SQL.items()
}
"""What each invariant says, by its name."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An invariant that does not hold: in how many places, and the ids of the first of them."""

    invariant: str
    says: str
    rows: int
    ids: list[str]


def _moves() -> str:
    """What the audit log may tell of a task, as the state machine has it: `[{before, command, attempts_left, after}]`. `held`
    is leased or running, `asked` a held task that was asked to end; a second cancel of such a task is not told.
    """
    moves: list[tuple[str, str, bool, str]] = [("nothing", "create", left, "queued") for left in (True, False)]
    for status, command, left, asked in product(
        TaskStatus, set(Command) - {Command.EXTEND}, (True, False), (True, False)
    ):
        held = status in HELD
        after = next_state(status, command, attempts_left=left, cancel_asked=asked)
        if after is None or (asked and (not held or command is Command.CANCEL)):
            continue
        before = "asked" if asked else "held" if held else status.value
        told = after.value if after not in HELD else "asked" if command is Command.CANCEL else "held"
        moves.append((before, command.value, left, told))
    names = ("before", "command", "attempts_left", "after")
    return json.dumps([dict(zip(names, move, strict=True)) for move in moves])


_PARAMS = {"moves": _moves(), "shown": SHOWN}


async def find_broken(connection: Connection, invariant: str) -> Broken | None:
    """What breaks one of `INVARIANTS`, None when it holds. Reads whole tables, in the memory that a sort may use."""
    query = _COUNT.replace(b"/* query */", b"\n" + _SQL[invariant] + b"\n")
    row = await fetch_one(connection, query, _PARAMS)
    return Broken(invariant, INVARIANTS[invariant], row["rows"], row["ids"]) if row and row["rows"] else None
