"""Tables for people."""

from collections.abc import Iterable, Mapping, Sequence

from bench.figures import Figure, Section


def table(section: Section) -> str:
    """A section as a table of text (also valid Markdown)."""
    columns = [
        "",
        "value",
        "limit",
        "ratio",
        "target",
        "",
        "CPU: server",
        "PostgreSQL",
        "generator",
        "others",
        "p50 / p99",
    ]
    rows = [columns, *(_cells(figure) for figure in section.figures)]
    kept = [n for n in range(len(columns)) if n == 0 or any(row[n] for row in rows[1:])]
    return "\n".join([f"### {section.title}", "", *_lines([[row[n] for n in kept] for row in rows]), *_notes(section)])


def machine_line(machine: Mapping[str, str]) -> str:
    """The machine in one line."""
    return "; ".join(f"{name} {words}" for name, words in machine.items())


def number(value: float) -> str:
    """With as many digits as tell something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _cells(figure: Figure) -> list[str]:
    judged = figure.judged
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    shares = [f"{figure.cores[who]:.0%}" if who in figure.cores else "" for who in _SHARES]
    took = figure.took_ms
    return [
        figure.name,
        f"{number(figure.value)} {figure.unit}",
        "" if figure.limit is None else number(figure.limit),
        ratio,
        "" if figure.target is None else str(figure.target),
        "" if judged is None else judged[1],
        *shares,
        f"{number(took['p50'])} / {number(took['p99'])} ms" if took else "",
    ]


_SHARES = ("server", "PostgreSQL", "generator", "others")


def _notes(section: Section) -> Iterable[str]:
    return ["", *section.notes] if section.notes else []


def _lines(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for n, row in enumerate(rows):
        cells = [
            cell.rjust(width) if m else cell.ljust(width)
            for m, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"| {' | '.join(cells)} |"
        if n == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"
