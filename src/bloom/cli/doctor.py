"""`bloom doctor`: is this installation sound, and what is to be done?"""

import typer

from bloom.cli.exits import ExitCode, errors_as_exits
from bloom.cli.options import JsonOption, RuntimeOption


def doctor(runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """Look at this installation, whatever of BLOOM runs here, and say what to do. Exit code 1 when something is wrong, 0 with
    warnings. Writes nothing but a small object into the object store, which it removes.
    """
    with errors_as_exits(as_json=as_json):
        import asyncio

        from bloom.cli.findings import print_findings
        from bloom.cli.installation import examine

        if (code := print_findings(asyncio.run(examine(runtime)), as_json=as_json)) is not ExitCode.DONE:
            raise typer.Exit(code)
