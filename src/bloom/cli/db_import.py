"""`bloom db import-predecessor`: take over the predecessor's tables."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from bloom.cli.exits import ExitCode, errors_as_exits
from bloom.cli.options import JsonOption
from bloom.cli.tables import print_table
from bloom.cli.terminal import clean_line, print_json


def import_predecessor(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be taken.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take over tasks, leases, workers, artifacts, results, audit log and settings of the predecessor.

    They are read from the schema `public` of the same database (DATABASE_URL), which is not changed. Ids are kept; what is
    here already is left alone, so it can be repeated. Ends with `bloom db check`: exit code 1 when an invariant does not hold.
    """
    with errors_as_exits(as_json=as_json):
        import asyncio

        from bloom.base.settings import ServerSettings, load
        from bloom.cli.db_check import show_broken
        from bloom.db.local import installed_database
        from bloom.tasks.service.checking import check

        settings = load(ServerSettings)
        try:
            with installed_database(settings) as url:
                report = asyncio.run(_run(url, settings, write=not dry_run))
                broken = [] if dry_run else asyncio.run(check(url))
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        if as_json:
            print_json({"dry_run": dry_run, **report.as_json(), "broken": [asdict(one) for one in broken]})
        else:
            _show(report, dry_run=dry_run)
            show_broken(broken)
        if broken:
            raise typer.Exit(ExitCode.FAILED)


async def _run(url: str, settings: Any, *, write: bool) -> Any:
    from bloom.blobs.open import open_blob_store
    from bloom.db.pool import Database
    from bloom.predecessor.moving import Import
    from bloom.upstream.sealing import Sealer

    database = Database(url, size=2)
    secret = None if settings.secret_key is None else settings.secret_key.get_secret_value()
    sealer = Sealer(settings.data_dir, secret)
    await database.open()
    try:
        blobs = open_blob_store(settings)
        return await Import(database, blobs, settings.minio_artifact_bucket, sealer, write=write).run()
    finally:
        await database.close()


def _show(report: Any, *, dry_run: bool) -> None:
    rows = [(name, str(each.found), str(each.taken), str(each.there)) for name, each in report.amounts.items()]
    print_table(("TABLE", "FOUND", "WOULD BE TAKEN" if dry_run else "TAKEN", "HERE ALREADY"), rows)
    for each in report.problems:
        ids = clean_line(", ".join(each.ids) + (", ..." if each.rows > len(each.ids) else ""))
        print(f"{each.table}: {each.rows} {each.says}" + (f" ({ids})" if ids else ""))
