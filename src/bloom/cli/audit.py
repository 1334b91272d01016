"""`bloom audit`: who did what, and whether the record of it is whole."""

from typing import Annotated

import typer

from bloom.audit.model import AuditAction
from bloom.cli.exits import EPILOG, errors_as_exits
from bloom.cli.options import JsonOption, RuntimeOption

app = typer.Typer(
    help="The audit log: read it, verify it, export it (docs/audit.md).", no_args_is_help=True, epilog=EPILOG
)

SinceOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="From then on, such as 2026-11-27 or 2026-11-27T08:30:00Z (UTC).", show_default=False
    ),
]
UntilOption = Annotated[str | None, typer.Option(metavar="TIME", help="Before then.", show_default=False)]


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    pass


@app.command("list", epilog=EPILOG)
def list_entries(
    action: Annotated[
        AuditAction | None,
        typer.Option(metavar="ACTION", help="Only this action, such as task_created.", show_default=False),
    ] = None,
    actor: Annotated[
        str | None, typer.Option(metavar="WHO", help="Only of this actor, such as key:alice.", show_default=False)
    ] = None,
    entity_type: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only on this kind, such as worker.", show_default=False)
    ] = None,
    entity_id: Annotated[str | None, typer.Option(metavar="ID", help="Only on this one.", show_default=False)] = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most this many, newest first.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List entries, newest first."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import audit_views

        audit_views.list_entries(
            runtime,
            {"action": action and action.value, "actor": actor, "entity_type": entity_type, "entity_id": entity_id},
            since=since,
            until=until,
            limit=None if every else limit,
            as_json=as_json,
        )


@app.command(epilog=EPILOG)
def verify(
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            metavar="FILE",
            help="Verify an exported file (- for stdin) in place of the database; several in their order.",
            show_default=False,
        ),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N:HASH",
            help="The chain must have this hash after its entry N, as an earlier verify or export told.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find entries that were changed, removed or added after they were sealed.

    Reads DATABASE_URL, else the database of the data directory; writes nothing, and others may go on. Exit code 1 when
    anything is not as it was sealed.
    """
    with errors_as_exits(as_json=as_json):
        from bloom.cli import audit_verify

        audit_verify.verify(files or [], expect or [], as_json=as_json)


@app.command(epilog=EPILOG)
def export(
    since: SinceOption = None,
    until: UntilOption = None,
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="- for stdout.")] = "-",
) -> None:
    """Write the sealed entries as lines of JSON, with their hashes, as `verify --file` reads them.

    Reads DATABASE_URL, else the database of the data directory; writes nothing there, and others may go on.
    """
    with errors_as_exits():
        from bloom.cli import audit_database

        audit_database.export(since, until, output)
