"""How long and how often is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """`seconds` of each run, `rounds` of runs in turn, `clients` of the load; `quick` is for a look, not for a judgement."""

    seconds: float
    rounds: int
    clients: tuple[int, ...]
    quick: bool = False
