"""How the findings of a doctor are shown."""

from collections.abc import Sequence
from dataclasses import asdict

from bloom.base.findings import Finding
from bloom.cli.exits import ExitCode
from bloom.cli.tables import Cell, print_fields
from bloom.cli.terminal import print_json

_VERDICTS = {"ok": "green", "warning": "yellow", "problem": "red"}


def print_findings(found: Sequence[Finding], *, as_json: bool) -> ExitCode:
    """Write them to stdout; FAILED when one of them is a problem."""
    has_problem = any(each.verdict == "problem" for each in found)
    if as_json:
        print_json({"ok": not has_problem, "checks": [asdict(each) for each in found]})
    else:
        fields: list[tuple[str, str | Cell]] = []
        for each in found:
            fix = f"Do: {each.fix}" if each.fix and each.verdict != "ok" else ""
            fields += [(each.name, Cell(each.verdict, _VERDICTS[each.verdict])), ("", each.text), ("", fix)]
        print_fields(fields)
    return ExitCode.FAILED if has_problem else ExitCode.DONE
