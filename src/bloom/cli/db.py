"""`bloom db`: the database of the runtime, its schema and its content."""

import typer

from bloom.cli.db_check import check
from bloom.cli.db_import import import_predecessor
from bloom.cli.db_prune import prune
from bloom.cli.db_schema import downgrade, upgrade
from bloom.cli.db_secret import forget_secret
from bloom.cli.exits import EPILOG

app = typer.Typer(help="The database of the runtime.", no_args_is_help=True, epilog=EPILOG)


app.command(epilog=EPILOG)(upgrade)
app.command(epilog=EPILOG)(downgrade)
app.command(epilog=EPILOG)(prune)
app.command(epilog=EPILOG)(check)
app.command("forget-secret", epilog=EPILOG)(forget_secret)
app.command(epilog=EPILOG)(import_predecessor)


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    pass
