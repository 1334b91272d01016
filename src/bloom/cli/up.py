"""`bloom up`: PostgreSQL, the runtime, Membridge and one worker in the foreground, from nothing, with one URL to open."""

from typing import Annotated

import typer

from bloom.cli.exits import errors_as_exits


def up(
    *,
    reload: Annotated[
        bool,
        typer.Option("--reload", help="Start the runtime again when its files change; no Membridge (development)."),
    ] = False,
) -> None:
    """Run everything on this machine until Ctrl-C, then exit 0; data is kept.

    PORT is the port (a busy one is an error; without it 5000 or the next free one), BLOOM_DATA_DIR the data directory
    (default .bloom), BLOOM_PROCESSES the processes of the runtime (default one per core, at most 4), BLOOM_UP_SLOTS the
    slots of the worker (default 2, 0 starts none), MEMBRIDGE_PORT the port of Membridge (without it 8000 or the next
    free one). With DATABASE_URL that PostgreSQL is used instead of an own one, with MEMBRIDGE_SERVER_URL that
    Membridge. Exit code 2 for a wrong setting, 1 when something could not start.
    """
    # What this needs takes a while to import; `bloom --help` and the other commands do without.
    from bloom.base.settings import load
    from bloom.cli.local_runtime import LocalRuntime
    from bloom.cli.up_settings import UpSettings

    with errors_as_exits():
        runtime = LocalRuntime(load(UpSettings), reload=reload)
    raise typer.Exit(runtime.run())
