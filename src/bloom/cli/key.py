"""`bloom key`: who may call the runtime, and as what."""

from enum import StrEnum
from typing import Annotated

import typer

from bloom.cli.exits import EPILOG, errors_as_exits
from bloom.cli.options import JsonOption, RuntimeOption

app = typer.Typer(
    help="The keys of the runtime: one for each person, script and worker.", no_args_is_help=True, epilog=EPILOG
)

_UNITS_SEC = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class KeyRole(StrEnum):
    """What a key may be made for; a join token is made by --join."""

    ADMIN = "admin"
    SUBMITTER = "submitter"
    WORKER = "worker"
    READER = "reader"


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    pass


@app.command(epilog=EPILOG)
def create(
    name: Annotated[
        str | None, typer.Argument(help="What the key is called, for ever. Default: made up.", show_default=False)
    ] = None,
    role: Annotated[
        KeyRole | None,
        typer.Option(
            help="admin: everything. submitter: tasks, and reading. reader: reading. worker: work as one worker (--worker).",
            show_default=False,
        ),
    ] = None,
    worker: Annotated[
        str | None, typer.Option(metavar="NAME", help="The worker that the key is for.", show_default=False)
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Make a token with which one new machine becomes a worker, once.")
    ] = False,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Its life, like 12h, 30d. Default: until revoked; --join: 1h.", show_default=False
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="--join: the runtime's address for the new machine.", show_default=False),
    ] = None,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key and write it to stdout. It is shown this once and stored nowhere."""
    if join == (role is not None):
        raise typer.BadParameter("say either --role or --join")
    if role is KeyRole.WORKER and worker is None:
        raise typer.BadParameter("a worker's key is for one worker: say --worker NAME", param_hint="--role")
    if worker is not None and not join and role is not KeyRole.WORKER:
        raise typer.BadParameter("goes with --role worker or --join", param_hint="--worker")
    if url is not None and not join:
        raise typer.BadParameter("goes with --join", param_hint="--url")
    life_sec = None if expires is None else _seconds(expires)
    with errors_as_exits(as_json=as_json):
        from bloom.cli import key_views

        wanted = key_views.Wanted(name, "join" if role is None else role.value, worker, life_sec)
        key_views.create(runtime, wanted, join_url=url, as_json=as_json)


@app.command("list", epilog=EPILOG)
def list_keys(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are revoked, expired or used up.")] = False,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys that are valid: what they are, never the keys themselves."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import key_views

        key_views.list_keys(runtime, everything=everything, as_json=as_json)


@app.command(epilog=EPILOG)
def rotate(
    name: Annotated[str, typer.Argument(help="Its name or id, as `bloom key list` has it.")],
    overlap: Annotated[
        str,
        typer.Option(metavar="TIME", help="For how long the old secret is still taken, like 30m, 7d; 0s ends it now."),
    ] = "24h",
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Life of the new secret. Default: as long as the old one's was.", show_default=False
        ),
    ] = None,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret and write it to stdout, once. The old one goes on being taken for a while."""
    overlap_sec = _seconds(overlap, option="--overlap", least=0)
    life_sec = None if expires is None else _seconds(expires)
    with errors_as_exits(as_json=as_json):
        from bloom.cli import key_views

        key_views.rotate(runtime, name, overlap_sec=overlap_sec, life_sec=life_sec, as_json=as_json)


@app.command(epilog=EPILOG)
def revoke(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names or ids, as `bloom key list` has them.")],
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse keys from now on."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import key_views

        key_views.revoke(runtime, names, as_json=as_json)


def _seconds(text: str, *, option: str = "--expires", least: int = 1) -> int:
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS_SEC and number.isascii() and number.isdigit() and least <= int(number) < 10**6:
        return int(number) * _UNITS_SEC[unit]
    raise typer.BadParameter("must be a number and s, m, h, d or w, like 12h or 30d", param_hint=option)
