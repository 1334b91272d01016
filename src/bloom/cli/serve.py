"""`bloom serve`: the runtime itself."""

from typing import Annotated

import typer

from bloom.cli.exits import errors_as_exits


def serve(
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Where to listen. Default: BLOOM_HOST.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="0: a free one. Default: BLOOM_RUNTIME_PORT, PORT, 5000."),
    ] = None,
    fd: Annotated[int | None, typer.Option(min=0, metavar="N", help="Listen on this inherited socket.")] = None,
    lifeline_fd: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Stop when this inherited pipe is closed.")
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when the code changes (development).")] = False,
) -> None:
    """Run the runtime: API, pages and reaper in one process."""
    with errors_as_exits():
        from bloom.server.run import serve as run

        run(host=host, port=port, fd=fd, lifeline_fd=lifeline_fd, reload=reload)
