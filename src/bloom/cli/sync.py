"""`bloom sync`: the session memory (`claude-mem.db`) of a project, carried between machines."""

from pathlib import Path
from typing import Annotated

import typer

from bloom.cli import sync_hooks
from bloom.cli.options import JsonOption

SYNC_EPILOG = (
    "Exit codes: 0 done or already equal; 1 error; 2 pull refused, this node is primary and its memory differs; 3 push or "
    "restore refused, this node is not the primary. Settings come from the environment: docs/sync.md lists them."
)
app = typer.Typer(
    help="Carry a project's session memory (claude-mem.db) between machines.", no_args_is_help=True, epilog=SYNC_EPILOG
)

ProjectOption = Annotated[
    str | None,
    typer.Option("--project", metavar="NAME", help="The project. Default: CLAUDE_PROJECT_ID.", show_default=False),
]
DatabaseOption = Annotated[
    Path | None,
    typer.Option(
        "--db",
        metavar="FILE",
        help="The database. Default: CLAUDE_MEM_DB, else ~/.claude-mem/claude-mem.db.",
        show_default=False,
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    pass


@app.command(epilog=SYNC_EPILOG)
def push(
    force: Annotated[
        bool, typer.Option("--force", help="Push over a remote memory that has moved on (FORCE_PUSH=1).")
    ] = False,
    dry_run: DryRunOption = False,
    project: ProjectOption = None,
    db: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make the local memory the current one of its project."""
    from bloom.cli import sync_views

    sync_views.push(project, db, force=force, dry_run=dry_run, as_json=as_json)


@app.command(epilog=SYNC_EPILOG)
def pull(
    merge: Annotated[bool, typer.Option("--merge", help="Unite both memories: nothing of either is dropped.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the memory of a primary, too (ALLOW_PRIMARY_PULL_OVERRIDE=1).")
    ] = False,
    dry_run: DryRunOption = False,
    project: ProjectOption = None,
    db: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the project's current memory here. What it replaces is kept as a copy."""
    if merge and force:
        raise typer.BadParameter("--merge drops nothing, so there is nothing to force", param_hint="--force")
    from bloom.cli import sync_views

    sync_views.pull(project, db, merge=merge, force=force, dry_run=dry_run, as_json=as_json)


@app.command(epilog=SYNC_EPILOG)
def status(project: ProjectOption = None, db: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Show who leads, what is here, what is there, and what to do next."""
    from bloom.cli import sync_views

    sync_views.status(project, db, as_json=as_json)


@app.command(epilog=SYNC_EPILOG)
def doctor(project: ProjectOption = None, db: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Look at each thing that sync needs and say what helps. Exit code 1 if something has to be done."""
    from bloom.cli import sync_views

    sync_views.doctor(project, db, as_json=as_json)


@app.command(epilog=SYNC_EPILOG)
def history(project: ProjectOption = None, db: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """List the versions that were pushed, newest first."""
    from bloom.cli import sync_views

    sync_views.history(project, db, as_json=as_json)


@app.command(epilog=SYNC_EPILOG)
def restore(
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="The beginning of a version's hash, as history shows it.")
    ],
    dry_run: DryRunOption = False,
    project: ProjectOption = None,
    db: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring an old version back: as the current one, and here. Only on the primary."""
    from bloom.cli import sync_views

    sync_views.restore(project, db, version, dry_run=dry_run, as_json=as_json)


app.command("install-hooks", epilog=SYNC_EPILOG)(sync_hooks.install_hooks)
app.command("hook", hidden=True)(sync_hooks.hook)
