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
    processes: Annotated[
        int | None,
        typer.Option(min=1, max=64, metavar="N", help="Serve by this many processes. Default: BLOOM_PROCESSES, 1."),
    ] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when the code changes (development).")] = False,
) -> None:
    """Run the runtime: API, pages and reaper, in one process or several behind one address."""
    with errors_as_exits():
        from bloom.base.settings import ServerSettings, load

        settings = load(ServerSettings)
        if (wanted := processes or settings.processes) > 1 and not reload:
            from bloom.cli.serve_processes import serve_processes
            from bloom.server.listening import open_given_or_own

            listening = open_given_or_own(settings, fd=fd, host=host, port=port)
            code = serve_processes(
                listening,
                processes=wanted,
                lifeline=lifeline_fd,
                drain_sec=settings.drain_sec,
                keeps_socket=fd is not None,
            )
            raise typer.Exit(code)
        from bloom.server.run import serve as run

        run(host=host, port=port, fd=fd, lifeline_fd=lifeline_fd, reload=reload)
