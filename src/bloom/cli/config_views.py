"""How `bloom config show` shows the settings."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from bloom.cli.config_catalog import Setting, misspelt, read_settings
from bloom.cli.exits import ExitCode
from bloom.cli.tables import Cell, print_table
from bloom.cli.terminal import clean_line, print_json


def show(worker_file: Path | None, *, as_json: bool) -> None:
    """Write all settings to stdout, and to stderr what is wrong and what is probably misspelt."""
    settings = read_settings(worker_file)
    wrong = [each for each in settings if each.problem is not None]
    strange = misspelt()
    if as_json:
        print_json(
            {
                "ok": not wrong,
                "settings": [asdict(each) for each in settings],
                "unknown": [{"name": name, "meant": meant} for name, meant in strange.items()],
            }
        )
    else:
        print_table(["PROGRAM", "SETTING", "FROM", "VALUE"], [_row(each) for each in settings])
        for name, meant in strange.items():
            hint = "" if meant is None else f": probably {meant} was meant"
            print(f"bloom: warning: nothing reads {clean_line(name)}{hint}", file=sys.stderr)
        for each in wrong:
            print(f"bloom: {clean_line(f'{each.source}: {each.problem}')}", file=sys.stderr)
    if wrong:
        raise typer.Exit(ExitCode.USAGE)


def _row(setting: Setting) -> list[str | Cell]:
    if setting.problem is not None:
        value = Cell(setting.problem, "red")
    else:
        is_text = isinstance(setting.value, str)
        value = Cell(setting.value if is_text else json.dumps(setting.value)) if setting.value is not None else "-"
    is_default = setting.source == "default"
    return [setting.program, ", ".join(setting.names), Cell(setting.source, "dim" if is_default else "green"), value]
