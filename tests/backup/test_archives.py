"""What an archive holds, where it goes, and which ones are refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.backup.running import PASSPHRASE, Bloom, running
from tests.blobs.blob_servers import S3Server
from tests.real_postgres import FreshDatabase, PostgresServer
from tests.real_runtime import StartReplica, told
from tests.runtime.invariants import check_invariants

from bloom.db.migrate import HEAD

LOCKED = {"BLOOM_BACKUP_PASSPHRASE": PASSPHRASE}


@pytest.fixture
def used(start_replica: StartReplica, database: FreshDatabase, tmp_path: Path) -> FreshDatabase:
    """A database with one task of each of some states, its artifacts in a directory."""
    runtime = start_replica(BLOOM_BLOB_DIR=str(tmp_path / "objects"))
    runtime.register(slots=8)
    for fields in ({}, {"status": "error", "output": None, "error_message": "no"}):
        task, lease = runtime.leased()
        told(runtime.complete(task["id"], lease["id"], **fields))
    runtime.leased()
    runtime.create(concurrency_key="one")
    return database


@pytest.fixture
def variables(used: FreshDatabase, tmp_path: Path) -> dict[str, str]:
    """The settings of the installation that is backed up."""
    return {"DATABASE_URL": used.url, "BLOOM_BLOB_DIR": str(tmp_path / "objects")}


@pytest.fixture
def archive(bloom: Bloom, variables: dict[str, str], tmp_path: Path) -> Path:
    """An encrypted archive."""
    made = bloom("backup", "create", tmp_path / "one.bloombackup", **variables, **LOCKED)
    assert made.exit_code == 0, made.output
    return tmp_path / "one.bloombackup"


def test_all_rows_come_back_as_they_were(
    bloom: Bloom, used: FreshDatabase, variables: dict[str, str], postgres_server: PostgresServer, tmp_path: Path
) -> None:
    used.edit("""update bloom.activity_position p set tx = a.tx, entry = a.id
                 from (select tx, id from bloom.audit_log order by tx, id offset 2 limit 1) a""")  # fmt: skip
    before = used.dump()
    archive = tmp_path / "two.bloombackup"
    assert bloom("backup", "create", archive, **variables, **LOCKED).exit_code == 0
    with postgres_server.database(empty=True) as other:
        restored = bloom("backup", "restore", archive, **{**variables, "DATABASE_URL": other.url}, **LOCKED)
        assert restored.exit_code == 0, restored.output
        after = other.dump()
        assert after == before
        ahead = """select array_agg(a.id order by a.id) from bloom.audit_log a, bloom.activity_position p
                   where (a.tx, a.id) > (p.tx, p.entry)"""
        assert len(other.value(ahead)) > 2 and other.value(ahead) == used.value(ahead)
        for database in (used, other):
            database.edit(
                "insert into bloom.audit_log (action, entity_type, entity_id, actor) values ('a', 'b', 'c', 'd')"
            )
        assert other.value("select max(id) from bloom.audit_log") == used.value("select max(id) from bloom.audit_log")
        keys = "select count(*) from pg_constraint where contype = 'f'"
        assert other.value(keys) == used.value(keys)


def test_a_target_that_is_not_empty_is_refused_unless_it_is_forced(
    bloom: Bloom, used: FreshDatabase, variables: dict[str, str], archive: Path, postgres_server: PostgresServer,
    start_replica: StartReplica,
) -> None:  # fmt: skip
    with postgres_server.database() as other:
        variables["DATABASE_URL"] = other.url
        other.edit("""insert into bloom.audit_log (action, entity_type, entity_id, actor)
                      values ('worker_removed', 'worker', 'theirs', 'somebody')""")  # fmt: skip
        before = other.dump()
        refused = bloom("backup", "restore", archive, "--json", **variables, **LOCKED)
        assert refused.exit_code == 7 and json.loads(refused.stderr)["code"] == "target_not_empty"
        assert other.dump() == before
        forced = bloom("backup", "restore", archive, "--force", **variables, **LOCKED)
        assert forced.exit_code == 0, forced.output
        assert not other.value("select count(*) from bloom.audit_log where entity_id = 'theirs'")
        check_invariants(other)

    start_replica()
    in_use = bloom(
        "backup", "restore", archive, "--force", "--json", **{**variables, "DATABASE_URL": used.url}, **LOCKED
    )
    assert in_use.exit_code == 7 and json.loads(in_use.stderr)["code"] == "database_in_use"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "not one": lambda _: b"PK\x03\x04" * 5000,
    "cut in the first line": lambda whole: whole[:40],
    "cut in the middle": lambda whole: whole[: len(whole) // 2],
    "cut by a byte": lambda whole: whole[:-1],
    "one bit": lambda whole: (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    ),
    "another head": lambda whole: whole.replace(b'"release": "', b'"release": "9', 1),
    "the digest": lambda whole: whole[:-32] + bytes(32),
    "more behind": lambda whole: whole + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("encrypted", [True, False])
def test_an_archive_that_is_not_whole_is_refused_before_anything_is_written(
    bloom: Bloom, tmp_path: Path, archives: dict[bool, bytes], damage: str, encrypted: bool
) -> None:
    bad = tmp_path / "bad.bloombackup"
    bad.write_bytes(DAMAGE[damage](archives[encrypted]))
    there = tmp_path / "there"
    refused = bloom(
        "backup", "restore", bad, "--json", **LOCKED, BLOOM_DATA_DIR=str(there), BLOOM_BLOB_DIR=str(there / "o")
    )
    assert refused.exit_code == 1
    assert json.loads(refused.stderr)["code"] in ("backup_damaged", *(["backup_locked"] if encrypted else []))
    assert not (there / "postgres").exists() and not list(there.rglob("*/artifacts*"))


@pytest.fixture(scope="module")
def archives(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    """A small archive, encrypted and not."""
    made: dict[bool, bytes] = {}
    with postgres_server.database() as database:
        for encrypted in (True, False):
            path = tmp_path_factory.mktemp("archives") / "one.bloombackup"
            variables = {"DATABASE_URL": database.url, **(LOCKED if encrypted else {})}
            assert running(path.parent)("backup", "create", path, **variables).exit_code == 0
            made[encrypted] = path.read_bytes()
    return made


def test_a_wrong_or_missing_passphrase_is_told(
    bloom: Bloom, archive: Path, empty_database: FreshDatabase, tmp_path: Path
) -> None:
    there = empty_database.url
    for wrong in ({}, {"BLOOM_BACKUP_PASSPHRASE": PASSPHRASE + "x"}):
        refused = bloom("backup", "restore", archive, "--json", DATABASE_URL=there, **wrong)
        said = json.loads(refused.stderr)
        assert refused.exit_code == 1 and said["code"] == "backup_locked" and "BLOOM_BACKUP_PASSPHRASE" in said["error"]
        assert PASSPHRASE not in refused.stderr
    (tmp_path / "passphrase").write_text(PASSPHRASE + "\n")
    by_file = {"BLOOM_BACKUP_PASSPHRASE_FILE": str(tmp_path / "passphrase"), "BLOOM_BLOB_DIR": str(tmp_path / "o")}
    assert bloom("backup", "restore", archive, DATABASE_URL=there, **by_file).exit_code == 0
    nothing = bloom("backup", "create", DATABASE_URL=there, BLOOM_BACKUP_PASSPHRASE_FILE=str(tmp_path / "none"))
    assert nothing.exit_code == 2 and "BLOOM_BACKUP_PASSPHRASE_FILE" in nothing.stderr


def test_an_archive_of_a_newer_schema_is_refused(
    bloom: Bloom, database: FreshDatabase, tmp_path: Path, archives: dict[bool, bytes]
) -> None:
    newer = archives[False].replace(HEAD.encode(), b"9999", 1)
    (tmp_path / "newer.bloombackup").write_bytes(newer)
    refused = bloom("backup", "restore", tmp_path / "newer.bloombackup", "--json", DATABASE_URL=database.url)
    said = json.loads(refused.stderr)
    assert refused.exit_code == 1 and said["code"] == "backup_too_new" and "9999" in said["error"]


def test_secrets_go_into_an_archive_only_when_it_is_encrypted_or_when_asked(
    bloom: Bloom, database: FreshDatabase, empty_database: FreshDatabase, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "secret.key").write_text("canary-secret\n")
    (tmp_path / "bloom.env").write_text("RUNTIME_API_KEY=canary-key\n")
    here_too = {"DATABASE_URL": database.url}

    def files(*args: str | Path, **more: str) -> list[str]:
        made = bloom(
            "backup", "create", "--json", tmp_path / f"{len(list(tmp_path.iterdir()))}", *args, **here_too, **more
        )
        assert made.exit_code == 0, made.output
        assert "canary" not in made.output
        return json.loads(made.stdout)["files"]

    assert files() == []
    assert files("--with-secrets") == ["secret.key"]
    refused = bloom("backup", "create", "--env-file", tmp_path / "bloom.env", **here_too)
    assert refused.exit_code == 2 and "BLOOM_BACKUP_PASSPHRASE" in refused.stderr
    assert files("--env-file", tmp_path / "bloom.env", **LOCKED) == ["secret.key", "environment"]

    archive = max((each for each in tmp_path.iterdir() if each.name.isdigit()), key=lambda each: int(each.name))
    there, env_file = tmp_path / "there", tmp_path / "there.env"
    args = ("backup", "restore", archive, "--env-file", env_file)
    there.mkdir()
    (there / "secret.key").write_text("another\n")
    elsewhere = {"BLOOM_DATA_DIR": str(there), "DATABASE_URL": empty_database.url, **LOCKED}
    refused = bloom(*args, **elsewhere)
    assert refused.exit_code == 7 and "secret.key" in refused.stderr and not env_file.exists()
    (there / "secret.key").unlink()
    assert bloom(*args, **elsewhere).exit_code == 0
    assert env_file.read_text() == "RUNTIME_API_KEY=canary-key\n" and env_file.stat().st_mode & 0o777 == 0o600
    assert (there / "secret.key").read_text() == "canary-secret\n"


def test_an_object_that_is_missing_is_told_and_the_rest_is_kept(
    bloom: Bloom, variables: dict[str, str], used: FreshDatabase, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "objects" / "artifacts")
    made = bloom("backup", "create", tmp_path / "one", "--json", **variables)
    said = json.loads(made.stdout)
    assert made.exit_code == 1 and said["missing_objects"] == 1
    assert said["missing"] == [used.value("select object_key from bloom.artifacts")]
    assert (tmp_path / "one").exists()
    whole = bloom("backup", "create", tmp_path / "two", "--artifacts", "manifest", DATABASE_URL=used.url)
    assert whole.exit_code == 0
    unset = bloom("backup", "create", tmp_path / "three", DATABASE_URL=used.url)
    assert unset.exit_code == 2 and "MINIO_ENDPOINT" in unset.stderr and not (tmp_path / "three").exists()


def test_an_object_store_keeps_archives_and_the_memories_travel_with_them(
    bloom: Bloom, used: FreshDatabase, variables: dict[str, str], s3_server: S3Server, empty_database: FreshDatabase,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "memory" / "projects" / "ab").mkdir(parents=True)
    (tmp_path / "memory" / "projects" / "ab" / "current.json").write_text("{}")
    s3 = {"MINIO_ENDPOINT": s3_server.endpoint, "MINIO_ACCESS_KEY": "AK", "MINIO_SECRET_KEY": "canary-store"}
    s3 |= {"MINIO_ARTIFACT_BUCKET": f"backups-{os.getpid()}", "BLOOM_SYNC_DIR": str(tmp_path / "memory")}
    # The artifacts move into the bucket: restored from the one place, backed up in the other.
    first = bloom("backup", "create", tmp_path / "one.bloombackup", **variables)
    assert first.exit_code == 0, first.output
    there = {"DATABASE_URL": empty_database.url, **s3}
    assert bloom("backup", "restore", tmp_path / "one.bloombackup", **there).exit_code == 0
    made = bloom("backup", "create", "--store", "--with-memory", "--json", **there, **LOCKED)
    assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)
    assert said["objects"] == 1 and said["memory_objects"] == 1
    assert said["archive"].startswith(f"minio://{s3['MINIO_ARTIFACT_BUCKET']}/backups/bloom-")
    (listed,) = json.loads(bloom("backup", "list", "--store", "--json", **there).stdout)
    assert said["archive"].endswith(listed["name"]) and listed["encrypted"] is True and listed["revision"] == HEAD
    assert listed["name"] in bloom("backup", "list", "--store", **there).stdout

    last = {**there, **LOCKED, "BLOOM_SYNC_DIR": str(tmp_path / "memory 2")}
    restored = bloom("backup", "restore", listed["name"], "--store", "--with-memory", "--force", **last)
    assert restored.exit_code == 0, restored.output
    assert (tmp_path / "memory 2" / "projects" / "ab" / "current.json").read_text() == "{}"
    assert bloom("backup", "restore", "none", "--store", **last).exit_code == 6


def test_objects_of_pruned_tasks_stay_while_a_backup_copies_them(
    used: FreshDatabase, start_replica: StartReplica, tmp_path: Path
) -> None:
    from bloom.artifacts.store import OBJECTS_LOCK

    runtime = start_replica(BLOOM_BLOB_DIR=str(tmp_path / "objects"))
    used.edit("insert into bloom.pruned_objects (object_key) select object_key from bloom.artifacts")
    with used.connect(autocommit=False) as backup:
        backup.execute("select pg_advisory_xact_lock_shared(%s)", [OBJECTS_LOCK])
        assert runtime.run(runtime.services.artifacts.delete_pruned()) == 0
    assert runtime.run(runtime.services.artifacts.delete_pruned()) == 1
