"""What a doctor says of one thing that it looked at."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `fix` says what helps, "" where nothing has to."""

    name: str
    verdict: Literal["ok", "warning", "problem"]
    text: str
    fix: str = ""
