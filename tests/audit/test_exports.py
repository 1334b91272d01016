"""Exporting to the object store: each sealed entry in exactly one file, whoever is killed and whenever."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.audit import dying_exporter
from tests.audit.dying_exporter import MOST_ENTRIES, STEPS
from tests.audit.logs import fill, on_pool, problems, seal, write
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, StartServed

from bloom.audit import exporting, sealing
from bloom.audit.chain import Findings, check_lines
from bloom.audit.exporting import AuditExporter
from bloom.audit.sealing import AuditSealer
from bloom.blobs.errors import BlobUnavailable
from bloom.blobs.local import DirectoryBlobs
from bloom.db.pool import Database

COUNT = 95


@pytest.fixture
def log(database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> FreshDatabase:
    """A log of 95 entries in ten seals, and one entry that has no seal."""
    monkeypatch.setattr(sealing, "MOST_ENTRIES", 10)
    monkeypatch.setattr(exporting, "MOST_ENTRIES", MOST_ENTRIES)
    fill(database, COUNT)
    assert seal(database) == COUNT
    fill(database, 1)
    return database


def export(database: FreshDatabase, directory: Path, **options: Any) -> int:
    """How many files one exporter writes."""

    async def run(pool: Database) -> int:
        exporter = AuditExporter(
            pool, AuditSealer(pool), DirectoryBlobs(directory), every_sec=options.get("every_sec", 0)
        )
        return await exporter.export(at_once=options.get("at_once", False))

    return on_pool(database, run)


def files(directory: Path) -> dict[str, bytes]:
    """The exported files by their names, in order."""
    found = sorted(path for path in (directory / "audit").rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def check(directory: Path, count: int) -> None:
    """All entries up to the number `count` are in the files, each once, and the chain holds."""
    found = Findings()
    for content in files(directory).values():
        for _ in check_lines(found, content.splitlines(keepends=True)):
            pass
    assert (found.problems, found.first_n, found.last_n, found.count) == ([], 1, count, count)


def test_what_is_sealed_is_exported_in_files_named_by_day_and_numbers(log: FreshDatabase, tmp_path: Path) -> None:
    assert export(log, tmp_path) == 4
    names = list(files(tmp_path))
    assert names == [
        f"audit/2026/11/27/{first:012}-{last:012}.jsonl" for first, last in ((1, 30), (31, 60), (61, 90), (91, 95))
    ]
    check(tmp_path, COUNT)
    line = json.loads(files(tmp_path)[names[0]].splitlines()[6])
    stored = log.row("select id, tx::text, detail::text as detail, actor from bloom.audit_log where id = 7")
    assert line["n"] == 7 and (line["id"], line["transaction"]) == (str(stored["id"]), stored["tx"])
    assert (line["detail"], line["actor"]) == (stored["detail"], stored["actor"])
    assert line["at"] == "1795820407000007"
    assert export(log, tmp_path) == 0 and list(files(tmp_path)) == names


@pytest.mark.parametrize("step", STEPS)
def test_an_exporter_that_is_killed_leaves_nothing_out_and_nothing_twice(
    log: FreshDatabase, tmp_path: Path, step: str
) -> None:
    argv = [sys.executable, dying_exporter.__file__, log.url, str(tmp_path), step]
    assert subprocess.run(argv, timeout=60).returncode == -9
    before = files(tmp_path)
    assert len(before) == (1 if step in ("planned", "reading") else 2)
    assert seal(log) == 1  # more is sealed meanwhile: it does not go into the file that was planned
    assert export(log, tmp_path) == (2 if step == "noted" else 3)
    after = files(tmp_path)
    assert {name: after[name] for name in before} == before
    check(tmp_path, COUNT + 1)


def test_a_file_that_is_written_again_has_the_same_bytes(log: FreshDatabase, tmp_path: Path) -> None:
    export(log, tmp_path)
    before = files(tmp_path)
    log.edit("update bloom.audit_exports set exported_at = null")
    seal(log)
    assert export(log, tmp_path / "again") == 5
    assert list(files(tmp_path / "again").items())[:4] == list(before.items())


def test_exporters_at_once_write_each_entry_once(log: FreshDatabase, tmp_path: Path) -> None:
    async def race(pool: Database) -> None:
        exporters = [AuditExporter(pool, AuditSealer(pool), DirectoryBlobs(tmp_path), every_sec=0) for _ in range(4)]
        await asyncio.gather(*(exporter.export() for exporter in exporters))

    on_pool(log, race)
    check(tmp_path, COUNT)
    assert log.value("select count(*) from bloom.audit_exports") == len(files(tmp_path)) == 4


def test_a_file_waits_for_its_time_unless_it_is_full_or_the_process_ends(log: FreshDatabase, tmp_path: Path) -> None:
    assert export(log, tmp_path, every_sec=900) == 3  # the first one, and those that are full
    assert export(log, tmp_path, every_sec=900) == 0
    log.edit("update bloom.audit_exports set planned_at = planned_at - interval '900 s'")
    assert export(log, tmp_path, every_sec=900) == 1
    assert seal(log) == 1
    assert export(log, tmp_path, every_sec=900) == 0
    assert export(log, tmp_path, every_sec=900, at_once=True) == 1
    check(tmp_path, COUNT + 1)


def test_a_store_that_is_down_delays_the_export(log: FreshDatabase, tmp_path: Path) -> None:
    with (
        patch.object(DirectoryBlobs, "put", side_effect=BlobUnavailable("The object store does not answer")),
        pytest.raises(BlobUnavailable),
    ):
        export(log, tmp_path)
    assert files(tmp_path) == {}
    assert export(log, tmp_path) == 4
    check(tmp_path, COUNT)


def test_what_was_tampered_with_is_exported_as_it_is_and_shows_in_the_files(log: FreshDatabase, tmp_path: Path) -> None:
    with log.unguarded():
        log.edit("update bloom.audit_log set actor = 'nobody' where id = 15")
        log.edit("delete from bloom.audit_log where id = 35")
    assert export(log, tmp_path) == 4
    found = Findings()
    for content in files(tmp_path).values():
        for _ in check_lines(found, content.splitlines(keepends=True)):
            pass
    assert [(one.n, one.what) for one in found.problems] == [(21, "changed"), (35, "removed"), (41, "changed")]


def test_a_hundred_thousand_entries_are_exported_whole_and_verify(
    database: FreshDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "MOST_ENTRIES", 10_000)
    fill(database, 100_000)
    assert seal(database) == 100_000
    assert export(database, tmp_path) == 2
    check(tmp_path, 100_000)
    assert problems(database) == []
    assert [row["last_n"] for row in database.rows("select last_n from bloom.audit_exports order by 1")] == [
        50_000,
        100_000,
    ]


def test_a_process_seals_and_exports_what_it_can_at_its_end(
    served: StartServed, database: FreshDatabase, tmp_path: Path
) -> None:
    server = served(BLOOM_BLOB_DIR=str(tmp_path / "blobs"), BLOOM_AUDIT_EXPORT_SEC="86400")
    for n in range(3):
        server.create(context_id=str(n))
    server.stop()
    check(tmp_path / "blobs", 3)


def test_maintenance_exports_at_its_interval(
    start_replica: StartReplica, database: FreshDatabase, tmp_path: Path
) -> None:
    with database.connect() as connection:
        write(connection, "before the start")
    seal(database)
    start_replica(maintenance=True, BLOOM_BLOB_DIR=str(tmp_path), BLOOM_AUDIT_EXPORT_SEC="1")
    eventually(lambda: database.value("select count(exported_at) from bloom.audit_exports") == 1, within_sec=15)
    check(tmp_path, 1)


def test_nothing_is_exported_where_that_is_off(database: FreshDatabase, tmp_path: Path) -> None:
    off = {"BLOOM_BLOB_DIR": str(tmp_path), "BLOOM_AUDIT_EXPORT": "off", "BLOOM_AUDIT_EXPORT_SEC": "1"}
    with Replica(database.url, maintenance=True, **off) as runtime:
        runtime.create()
        eventually(lambda: database.value("select count(*) from bloom.audit_seals"), within_sec=15)
    assert files(tmp_path) == {}
    assert database.value("select count(*) from bloom.audit_exports") == 0
