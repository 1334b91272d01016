"""`bloom db`: the schema of an external database."""

import typer

from bloom.base.errors import ConfigurationError
from bloom.cli.db_check import check
from bloom.cli.db_import import import_predecessor
from bloom.cli.db_prune import prune
from bloom.cli.db_secret import forget_secret
from bloom.cli.exits import EPILOG, errors_as_exits
from bloom.cli.options import JsonOption
from bloom.cli.terminal import print_json

app = typer.Typer(help="The database of the runtime.", no_args_is_help=True, epilog=EPILOG)


app.command(epilog=EPILOG)(prune)
app.command(epilog=EPILOG)(check)
app.command("forget-secret", epilog=EPILOG)(forget_secret)
app.command(epilog=EPILOG)(import_predecessor)


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    pass


@app.command(epilog=EPILOG)
def upgrade(as_json: JsonOption = False) -> None:
    """Bring the schema of DATABASE_URL to this release. Safe to repeat, and while runtimes serve."""
    with errors_as_exits(as_json=as_json):
        from bloom.base.settings import ServerSettings, load
        from bloom.db.migrate import upgrade as apply

        url = load(ServerSettings).database_url
        if url is None:
            raise ConfigurationError(
                "DATABASE_URL is not set; the database that `bloom serve` runs by itself is upgraded at its start"
            )
        applied = apply(url.get_secret_value())
        if as_json:
            print_json({"applied": applied})
        else:
            print(f"applied {', '.join(applied)}" if applied else "the schema is up to date")
