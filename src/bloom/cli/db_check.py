"""`bloom db check`: whether the tables tell a story that the runtime can have written."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer

from bloom.cli.exits import ExitCode, errors_as_exits
from bloom.cli.options import JsonOption
from bloom.cli.terminal import clean_line, print_json


def check(as_json: JsonOption = False) -> None:
    """Look for what must never be in the tables: lost or doubled work, states without audit, workers beyond their slots.

    Reads DATABASE_URL, else the database of the data directory; writes nothing, and others may go on. Exit code 1 when an
    invariant does not hold.
    """
    with errors_as_exits(as_json=as_json):
        import asyncio

        from bloom.base.settings import ServerSettings, load
        from bloom.db.local import installed_database
        from bloom.tasks.service.checking import INVARIANTS
        from bloom.tasks.service.checking import check as look

        began = time.monotonic()
        try:
            with installed_database(load(ServerSettings)) as url:
                broken = asyncio.run(look(url))
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        seconds = round(time.monotonic() - began, 1)
        if as_json:
            found = [asdict(one) for one in broken]
            print_json({"ok": not broken, "invariants": len(INVARIANTS), "seconds": seconds, "broken": found})
        else:
            show_broken(broken)
            print(f"{len(INVARIANTS) - len(broken)} of {len(INVARIANTS)} invariants hold ({seconds} s)")
        if broken:
            raise typer.Exit(ExitCode.FAILED)


def show_broken(broken: Sequence[Any]) -> None:
    """Name each invariant that does not hold (`tasks.service.checking.Broken`), and what breaks it."""
    for one in broken:
        ids = clean_line(", ".join(one.ids) + (", ..." if one.rows > len(one.ids) else ""))
        print(f"{one.invariant}: {one.rows} broken ({ids})\n  {one.says}.")
