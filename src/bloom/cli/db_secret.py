"""`bloom db forget-secret`."""

from typing import Annotated

import typer

from bloom.cli.exits import errors_as_exits
from bloom.cli.options import JsonOption
from bloom.cli.terminal import print_json


def forget_secret(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, as_json: JsonOption = False
) -> None:
    """Let the next runtime that starts choose the secret of the installation (BLOOM_SECRET_KEY, or secret.key in the data
    directory), after the old one was lost. Ends all sessions of the pages; the saved key of Membridge has to be entered again.
    """
    with errors_as_exits(as_json=as_json):
        from bloom.base.settings import ServerSettings, load
        from bloom.db import installation
        from bloom.db.local import installed_database

        if not yes:
            typer.confirm("All runtimes are stopped, and the old secret is lost for good?", abort=True, err=True)
        with installed_database(load(ServerSettings)) as url:
            had_one, had_key = installation.forget_secret(url)
        if as_json:
            print_json({"forgotten": had_one, "membridge_key_deleted": had_key})
        else:
            print("the secret is forgotten; the next runtime that starts chooses it" if had_one else "there was none")
            if had_key:
                print("the saved key of Membridge is deleted; enter it again in the settings")
