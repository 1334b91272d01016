"""`bloom db prune`: delete tasks that ended long ago, now."""

import getpass
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from bloom.base.errors import ConfigurationError
from bloom.cli.counting import Counting
from bloom.cli.exits import ExitCode, errors_as_exits
from bloom.cli.options import JsonOption
from bloom.cli.tables import Cell, print_table, state_cell
from bloom.cli.terminal import byte_size, print_json


def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be deleted.")] = False,
    older_than: Annotated[
        int | None,
        typer.Option(min=1, max=36_500, metavar="DAYS", help="Default: BLOOM_RETENTION_DAYS.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the tasks that ended long ago, with their events, results and artifacts.

    In DATABASE_URL, else in the database of the data directory. The audit log stays whole. Safe to interrupt, to repeat, and
    while runtimes serve.
    """
    with errors_as_exits(as_json=as_json):
        import asyncio

        from bloom.base.settings import ServerSettings, load
        from bloom.blobs.open import open_blob_store
        from bloom.db.local import installed_database

        settings = load(ServerSettings)
        days = settings.retention_days if older_than is None else older_than
        if not days:
            raise ConfigurationError("BLOOM_RETENTION_DAYS is 0, which keeps all; --older-than DAYS says otherwise")
        blobs = open_blob_store(settings)
        try:
            with installed_database(settings) as url:
                by_state = asyncio.run(_prune(url, blobs, days, dry_run=dry_run))
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    if as_json:
        print_json({"older_than_days": days, "dry_run": dry_run, "by_state": by_state})
    elif not by_state:
        print(f"no task ended {days} days ago or earlier")
    elif dry_run:
        print_table(
            ("STATE", "TASKS", "ARTIFACTS", "IN THE DATABASE", "IN THE OBJECT STORE"),
            [_row(state, amount) for state, amount in by_state.items()],
        )
    else:
        print_table(("STATE", "PRUNED"), [(state_cell(state), str(n["tasks"])) for state, n in by_state.items()])


async def _prune(url: str, blobs: Any, days: int, *, dry_run: bool) -> dict[str, dict[str, int]]:
    """The amounts by state that were deleted or, in a dry run, would be."""
    from dataclasses import asdict

    from bloom.artifacts.service import ArtifactService
    from bloom.db.pool import Database
    from bloom.tasks.service.retention import RetentionService

    database = Database(url, size=2)
    service = RetentionService(database, ArtifactService(database, blobs))
    await database.open()
    try:
        if dry_run:
            return {state.value: asdict(amount) for state, amount in (await service.would_prune(days)).items()}
        progress = Counting("pruned", "tasks")
        pruned = await service.prune(days, actor=f"cli:{_user()}", progress=progress)
        progress.end()
        return {state.value: {"tasks": count} for state, count in pruned.items()}
    finally:
        await database.close()


def _row(state: str, amount: Mapping[str, int]) -> list[str | Cell]:
    sizes = (byte_size(amount["database_bytes"]), byte_size(amount["store_bytes"]))
    return [state_cell(state), str(amount["tasks"]), str(amount["artifacts"]), *sizes]


def _user() -> str:
    """Who ran this, for the audit log: the account of this machine, or its number where it has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        import os

        return str(os.getuid())
