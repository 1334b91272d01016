"""`bloom membridge`: the control plane of the session memory."""

from typing import Annotated

import typer

from bloom.cli.exits import errors_as_exits

EPILOG = (
    "Exit codes: 0 stopped; 1 error; 2 wrong usage or setting. Settings come from the environment, DATABASE_URL and "
    "MEMBRIDGE_ADMIN_KEY first: docs/configuration.md lists them."
)
app = typer.Typer(help="The control plane of the session memory.", no_args_is_help=True, epilog=EPILOG)


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    pass


@app.command(epilog=EPILOG)
def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Where to listen. Default: MEMBRIDGE_HOST, BLOOM_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="0: a free one. Default: MEMBRIDGE_PORT, 8000."),
    ] = None,
    fd: Annotated[int | None, typer.Option(min=0, metavar="N", help="Listen on this inherited socket.")] = None,
    lifeline_fd: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Stop when this inherited pipe is closed.")
    ] = None,
) -> None:
    """Run Membridge: nodes, leadership, versions and sync jobs. Its key is MEMBRIDGE_ADMIN_KEY."""
    with errors_as_exits():
        from bloom.server.membridge_run import serve_membridge

        serve_membridge(host=host, port=port, fd=fd, lifeline_fd=lifeline_fd)
