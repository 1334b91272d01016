"""The figures as one SVG: throughput beside its limit, and everything else beside its target. Light and dark."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from bench.figures import Figure, Section
from bench.report import machine_line, number

_WIDTH = 1060
_LABEL = 400  # where bars begin
_SPAN = 360  # the longest bar
_ROW = 24
_THROUGHPUT = "tasks/s"
_TARGET_AT = 0.5  # of the span: bars reach twice their target at most

_STYLE = """
svg { --paper: #ffffff; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --limit: #b6c0cc; --ours: #2f6fde; --missed: #c2570c;
  font-family: system-ui, -apple-system, "Segoe UI", sans-serif; font-size: 13px; font-variant-numeric: tabular-nums }
@media (prefers-color-scheme: dark) {
  svg { --paper: #12161c; --ink: #e8ecf1; --soft: #9aa6b4; --line: #2b333d; --limit: #4b5766;
    --ours: #6ea2ff; --missed: #f2994a }
}
text { fill: var(--ink) } .soft { fill: var(--soft) } .title { font-size: 15px; font-weight: 600 }
.paper { fill: var(--paper) } .rule { stroke: var(--line) } .mark { stroke: var(--ink); stroke-width: 1.5 }
.limit { fill: var(--limit) } .ours { fill: var(--ours) } .missed { fill: var(--missed) }
"""


def chart(machine: Mapping[str, str], sections: Sequence[Section]) -> str:
    """An SVG document. Colour never stands alone: each bar carries its figures, and `missed` where it is."""
    rows: list[str] = []
    y = 68
    for section in sections:
        if fast := [figure for figure in section.figures if figure.unit == _THROUGHPUT]:
            y = _panel(rows, y, section.title, _throughput(fast))
    judged = [(section, figure) for section in sections for figure in section.figures if _is_beside_target(figure)]
    if judged:
        y = _panel(rows, y, "Beside the target (the line); below it is good", _beside_targets(judged))
    height = y + 8
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">',
            f"<title>Benchmark of BLOOM Runtime</title><style>{_STYLE}</style>",
            f'<rect class="paper" width="{_WIDTH}" height="{height}"/>',
            '<text class="title" x="24" y="32">BLOOM Runtime beside PostgreSQL\'s own limit</text>',
            f'<text class="soft" x="24" y="52">{escape(machine_line(machine))}</text>',
            *rows,
            "</svg>\n",
        ]
    )


def _is_beside_target(figure: Figure) -> bool:
    return figure.unit != _THROUGHPUT and figure.target is not None and figure.target.at_most


def _panel(rows: list[str], y: int, title: str, bars: Iterable[str]) -> int:
    """Append a panel at `y`; where the next one begins. Each bar is drawn for the line y=0."""
    rows.append(f'<line class="rule" x1="24" x2="{_WIDTH - 24}" y1="{y}" y2="{y}"/>')
    rows.append(f'<text class="title" x="24" y="{y + 26}">{escape(title)}</text>')
    y += 40
    for bar in bars:
        rows.append(f'<g transform="translate(0 {y})">{bar}</g>')
        y += _ROW
    return y + 16


def _throughput(figures: Sequence[Figure]) -> Iterable[str]:
    most = max(figure.value for figure in figures)
    for figure in figures:
        is_limit = figure.ratio is None
        told = number(figure.value)
        if figure.ratio is not None:
            told += f"  ({figure.ratio:.2f}"
            told += f"; target {figure.target}: {figure.judged[1]})" if figure.target and figure.judged else ")"
        kind = "limit" if is_limit else "missed" if _is_missed(figure) else "ours"
        yield _bar(figure.name, figure.value / most, told, kind, figures_from=0)


def _beside_targets(judged: Sequence[tuple[Section, Figure]]) -> Iterable[str]:
    for section, figure in judged:
        assert figure.target is not None and figure.judged is not None
        told = f"{number(figure.value)} {figure.unit}".rstrip() + f"  ({figure.target}: {figure.judged[1]})"
        bound = figure.target.bound
        share = min(figure.value / bound if bound else 1 + figure.value, 2) * _TARGET_AT
        at = _LABEL + _SPAN * _TARGET_AT
        mark = f'<line class="mark" x1="{at:.0f}" x2="{at:.0f}" y1="-1" y2="{_ROW - 5}"/>'
        yield (
            _bar(
                f"{section.name}: {figure.name}",
                share,
                told,
                "missed" if _is_missed(figure) else "ours",
                figures_from=_TARGET_AT,
            )
            + mark
        )


def _is_missed(figure: Figure) -> bool:
    return figure.judged is not None and not figure.judged[0]


def _bar(name: str, share: float, told: str, kind: str, *, figures_from: float) -> str:
    """A bar over this share of the span, its name before it, its figures behind it and behind `figures_from`, a share too."""
    width = max(share * _SPAN, 2)
    after = _LABEL + max(width, _SPAN * figures_from) + 8
    return (
        f'<text class="soft" x="{_LABEL - 10}" y="14" text-anchor="end">{escape(_shortened(name))}</text>'
        f'<rect class="{kind}" x="{_LABEL}" y="2" width="{width:.1f}" height="15" rx="3"/>'
        f'<text x="{after:.0f}" y="14">{escape(told)}</text>'
    )


def _shortened(name: str) -> str:
    return name if len(name) <= 52 else f"{name[:51]}…"
