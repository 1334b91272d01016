"""Charts as geometry for `chart.html`: 60 minutes as bars. Drawn on the server, so that a page needs no script for them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 140
_LEFT, _BOTTOM, _TOP = 48, 22, 10


@dataclass(frozen=True, slots=True)
class Bar:
    """One rectangle. `kind` is its class in the style."""

    x: float
    y: float
    width: float
    height: float
    kind: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars over a line at zero. `ticks` are heights with their values, greatest last."""

    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, float]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    floor: float = HEIGHT - _BOTTOM


def bars(columns: Sequence[Sequence[tuple[str, float]]]) -> Chart:
    """A chart of columns from left to right, each of (kind, value) stacked upward. Values are not negative."""
    top = _round_up(max((sum(value for _, value in column) for column in columns), default=0))
    step = (WIDTH - _LEFT) / max(len(columns), 1)
    scale = (HEIGHT - _BOTTOM - _TOP) / top
    drawn: list[Bar] = []
    for place, column in enumerate(columns):
        floor: float = HEIGHT - _BOTTOM
        for kind, value in column:
            if value > 0:
                tall = max(value * scale, 1)
                floor -= tall
                drawn.append(
                    Bar(round(_LEFT + place * step + 1, 1), round(floor, 1), round(step - 2, 1), round(tall, 1), kind)
                )
    ticks = [(round(HEIGHT - _BOTTOM - top * part * scale, 1), top * part) for part in (0, 0.5, 1)]
    return Chart(drawn, ticks)


def _round_up(value: float) -> float:
    """The next of 1, 2 or 5 times a power of ten, whose half is a round number, too; 2 for nothing."""
    if value <= 0:
        return 2
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= value * (1 - 1e-9))
