"""What `bloom backup` does, and how it shows it."""

import asyncio
import os
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import typer

from bloom.backup.create import Creation, Wanted
from bloom.backup.places import Listed, Shelf, archive_name, directory_shelf, store_shelf
from bloom.backup.restore import Target, Verified, verify
from bloom.backup.restore import restore as put_back
from bloom.backup.settings import ENV_FILE, SECRET_FILES, BackupSettings
from bloom.base.errors import ConfigurationError, NotFound
from bloom.base.settings import load
from bloom.blobs.interface import BlobStore
from bloom.blobs.open import open_blob_store
from bloom.cli.db_check import show_broken
from bloom.cli.exits import ExitCode
from bloom.cli.tables import print_table
from bloom.cli.terminal import byte_size, clean_line, print_json
from bloom.db.local import installed_database, reachable_database
from bloom.tasks.service.checking import INVARIANTS, Broken, check

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an archive is to hold, or what of it is to be restored."""

    contents: bool
    memory: bool
    secrets: bool
    env_file: Path | None


def create(to: Path | None, *, store: bool, asked: Asked, as_json: bool) -> None:
    """Make an archive; its place goes to stdout."""
    settings = load(BackupSettings)
    passphrase = settings.passphrase()
    wanted = Wanted(
        asked.contents,
        open_blob_store(settings),
        _memory(settings) if asked.memory else None,
        _files(settings, asked, encrypted=passphrase is not None),
    )
    with installed_database(settings) as url:
        creation = Creation(url, wanted, passphrase)
        if store and to is not None:
            raise ConfigurationError("PATH and --store exclude each other")
        shelf, name = (store_shelf(wanted.objects), None) if store else _place(to, settings)
        name = name or archive_name(creation.made_at)
        umask = os.umask(0o077)  # an archive holds prompts, outputs and digests of keys
        try:
            _run(shelf.put(name, creation.stream()))
        finally:
            os.umask(umask)
    summary = creation.summary
    place = shelf.store.url(shelf.key(name)) if shelf.directory is None else str(shelf.directory / name)
    if as_json:
        print_json({"archive": place, "encrypted": passphrase is not None, **summary.as_meta()})
    else:
        print(place)
        rows = sum(summary.tables.values())
        held = [f"{rows} rows", f"{summary.objects} objects", *summary.files]
        if asked.memory:
            held.append(f"{summary.memory_objects} objects of the memory")
        seal = "encrypted" if passphrase is not None else "not encrypted"
        print(f"{', '.join(held)}; {seal}", file=sys.stderr)
        if summary.missing_objects:
            named = clean_line(", ".join(summary.missing))
            print(f"{summary.missing_objects} objects were missing in the store: {named}", file=sys.stderr)
    if summary.missing_objects:
        raise typer.Exit(ExitCode.FAILED)


def list_archives(directory: Path | None, *, store: bool, as_json: bool) -> None:
    """Show the archives of a place."""
    settings = load(BackupSettings)
    if store and directory is not None:
        raise ConfigurationError("DIRECTORY and --store exclude each other")
    place = (directory or _default(settings)).expanduser().absolute()
    if not store and not place.is_dir():
        if directory is not None:
            raise NotFound("There is no such directory")
        found: Sequence[Listed] = ()
    else:
        found = _run((store_shelf(open_blob_store(settings)) if store else directory_shelf(place)).list())
    rows: list[dict[str, Any]] = []
    for each in found:
        head = each.head
        rows.append(
            {
                "name": each.name,
                "bytes": each.size,
                "made_at": head and head.made_at.isoformat(timespec="seconds"),
                "release": head and head.release,
                "revision": head and head.revision,
                "encrypted": head and head.salt is not None,
            }
        )
    if as_json:
        print_json(rows)
        return
    seals = {True: "yes", False: "no", None: "cannot be read"}
    print_table(
        ("MADE", "SIZE", "RELEASE", "SCHEMA", "ENCRYPTED", "NAME"),
        [
            (
                str(row["made_at"] or ""),
                byte_size(row["bytes"]),
                clean_line(str(row["release"] or "")),
                clean_line(str(row["revision"] or "")),
                seals[row["encrypted"]],
                clean_line(row["name"]),
            )
            for row in rows
        ],
    )


def restore(archive: str, *, store: bool, force: bool, asked: Asked, as_json: bool) -> None:
    """Restore an archive, then look whether the tables can be true."""
    settings = load(BackupSettings)
    passphrase = settings.passphrase()
    objects = open_blob_store(settings)
    if store:
        shelf, name = store_shelf(objects), archive
    else:
        path = Path(archive).expanduser().absolute()
        if not path.is_file():
            raise NotFound("There is no such archive")
        shelf, name = directory_shelf(path.parent), path.name
    memory = _memory(settings) if asked.memory else None
    target = Target(objects, memory, settings.data_dir, asked.env_file, force)
    verified, broken = _run(_restore(shelf, name, passphrase, settings, target))
    if as_json:
        summary = {**verified.summary, "files": sorted(verified.files)}
        print_json({"restored": name, **summary, "ok": not broken, "broken": [asdict(one) for one in broken]})
    else:
        print(f"restored {sum(verified.summary['tables'].values())} rows and {verified.summary['objects']} objects")
        _tell_left_out(verified, asked)
        show_broken(broken)
        print(f"{len(INVARIANTS) - len(broken)} of {len(INVARIANTS)} invariants hold")
    if broken:
        raise typer.Exit(ExitCode.FAILED)


async def _restore(
    shelf: Shelf, name: str, passphrase: str | None, settings: BackupSettings, target: Target
) -> tuple[Verified, list[Broken]]:
    verified = await verify(await shelf.open(name), passphrase)
    with reachable_database(settings, make=True) as url:
        await put_back(await shelf.open(name), verified, passphrase, url, target)
        return verified, await check(url)


def _tell_left_out(verified: Verified, asked: Asked) -> None:
    if verified.summary["memory_objects"] and not asked.memory:
        print("The archive holds projects' memories: --with-memory restores them.", file=sys.stderr)
    if ENV_FILE in verified.files and asked.env_file is None:
        print("The archive holds an environment file: --env-file FILE writes it.", file=sys.stderr)
    if verified.head.salt is None and not set(SECRET_FILES) & set(verified.files):
        print(
            "The archive holds no secret.key: put yours into the data directory, or enter Membridge's admin key again.",
            file=sys.stderr,
        )


def _place(to: Path | None, settings: BackupSettings) -> tuple[Shelf, str | None]:
    if to is None:
        return directory_shelf(_default(settings)), None
    path = to.expanduser().absolute()
    if path.is_dir() or str(to).endswith("/"):
        return directory_shelf(path), None
    if path.exists():
        raise ConfigurationError("PATH is a file that exists; name another, or a directory")
    return directory_shelf(path.parent), path.name


def _default(settings: BackupSettings) -> Path:
    return settings.data_dir / "backups"


def _memory(settings: BackupSettings) -> BlobStore:
    bucket = settings.open_bucket()
    if bucket is None:
        raise ConfigurationError("--with-memory needs the projects' bucket: set MINIO_BUCKET (or BLOOM_SYNC_DIR)")
    return bucket


def _files(settings: BackupSettings, asked: Asked, *, encrypted: bool) -> dict[str, Path]:
    files: dict[str, Path] = {}
    if encrypted or asked.secrets:
        files = {name: settings.data_dir / name for name in SECRET_FILES if (settings.data_dir / name).is_file()}
    if asked.env_file is not None:
        if not encrypted:
            raise ConfigurationError("--env-file goes only into an encrypted archive: set BLOOM_BACKUP_PASSPHRASE")
        if not asked.env_file.is_file():
            raise ConfigurationError("--env-file must name a file")
        files[ENV_FILE] = asked.env_file
    return files


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The outcome of `work`; Ctrl-C is exit code 130."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
