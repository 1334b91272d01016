"""`bloom backup`: archives of the database, the artifacts and what else is asked for."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bloom.cli.exits import EPILOG, errors_as_exits
from bloom.cli.options import JsonOption

app = typer.Typer(help="Back up the runtime and Membridge, and restore them.", no_args_is_help=True, epilog=EPILOG)

StoreOption = Annotated[
    bool, typer.Option("--store", help="In the object store (MINIO_ENDPOINT, MINIO_ARTIFACT_BUCKET), below backups/.")
]


class Artifacts(StrEnum):
    """What an archive holds of artifacts in an object store."""

    FULL = "full"
    MANIFEST = "manifest"


@app.callback()
def _group() -> None:  # pyright: ignore[reportUnusedFunction]
    pass


@app.command(epilog=EPILOG)
def create(
    to: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="A directory, or the file. Default: backups in BLOOM_DATA_DIR."),
    ] = None,
    store: StoreOption = False,
    artifacts: Annotated[
        Artifacts, typer.Option(help="Of artifacts in the object store: their contents, or only key, size and SHA-256.")
    ] = Artifacts.FULL,
    with_memory: Annotated[
        bool, typer.Option("--with-memory", help="The projects' memories, too (MINIO_BUCKET or BLOOM_SYNC_DIR).")
    ] = False,
    with_secrets: Annotated[
        bool,
        typer.Option("--with-secrets", help="secret.key and membridge.key, too; an encrypted archive has them always."),
    ] = False,
    env_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="This environment file, too; only into an encrypted archive.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make one consistent archive of DATABASE_URL, else of the database of the data directory, while others go on.

    Encrypted when BLOOM_BACKUP_PASSPHRASE or BLOOM_BACKUP_PASSPHRASE_FILE is set. Exit code 1 when objects of artifacts
    were missing in the store: the archive is whole without them.
    """
    with errors_as_exits(as_json=as_json):
        from bloom.cli import backup_run

        asked = backup_run.Asked(artifacts is Artifacts.FULL, with_memory, with_secrets, env_file)
        backup_run.create(to, store=store, asked=asked, as_json=as_json)


@app.command("list", epilog=EPILOG)
def list_archives(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIRECTORY", help="Default: backups in BLOOM_DATA_DIR.", show_default=False)
    ] = None,
    store: StoreOption = False,
    as_json: JsonOption = False,
) -> None:
    """List archives, oldest first. No passphrase is needed."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import backup_run

        backup_run.list_archives(directory, store=store, as_json=as_json)


@app.command(epilog=EPILOG)
def restore(
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE", help="The file; with --store its name.")],
    store: StoreOption = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there: all that BLOOM has in the database.")
    ] = False,
    with_memory: Annotated[
        bool, typer.Option("--with-memory", help="The projects' memories, too (MINIO_BUCKET or BLOOM_SYNC_DIR).")
    ] = False,
    env_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the environment file here.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Restore an archive into DATABASE_URL, else into the database of the data directory, which is made where there is none.

    Nothing is written before the whole archive was read and found good. Stop the runtime and Membridge first. Ends with
    `bloom db check`: exit code 1 when an invariant does not hold.
    """
    with errors_as_exits(as_json=as_json):
        from bloom.cli import backup_run

        asked = backup_run.Asked(True, with_memory, True, env_file)
        backup_run.restore(archive, store=store, force=force, asked=asked, as_json=as_json)
