"""`bloom config`: what the programs are told, and by what."""

from pathlib import Path
from typing import Annotated

import typer

from bloom.cli.exits import EPILOG, errors_as_exits
from bloom.cli.options import JsonOption

app = typer.Typer(help="The settings of this installation.", no_args_is_help=True, epilog=EPILOG)


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    pass


@app.command(epilog=EPILOG)
def show(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="The worker's file. Default: worker.toml in BLOOM_WORKER_DIR.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show every setting with its value (secrets as stars) and where it comes from. Exit code 2 when one is wrong."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import config_views

        config_views.show(config, as_json=as_json)
