"""What sync says and does where an object of the bucket, a setting or the local file is not what it should be."""

import asyncio
import json
from pathlib import Path

import claude_mem
import pytest
from nodes import Node, World
from test_looking import findings

from bloom.blobs.local import DirectoryBlobs
from bloom.sync.copies import download
from bloom.sync.errors import SyncError
from bloom.sync.model import Version

TRUNCATED = b'{"sha256": "12'


def pushed_twice(world: World) -> Node:
    """a, which has pushed two versions."""
    a = world.node("a")
    for session in ("one", "two"):
        a.remember(session)
        a.run("push")
    return a


def test_a_damaged_pointer_is_named_with_its_remedy_and_hides_no_version(bucket_world: World) -> None:
    a = pushed_twice(bucket_world)
    bucket_world.put(bucket_world.keys.pointer, TRUNCATED)
    a.remember("three")
    for command in ("push", "pull"):
        refused = a.run(command, code=1)
        assert "current.json" in refused.err and "push --force" in refused.err and "restore" in refused.err
    assert len(a.run("history", "--json").json) == 2
    assert (a.status()["relation"], a.status()["advice"][:23]) == ("broken_remote", "bloom sync push --force")
    found = findings(a, code=1)
    assert {name for name, each in found.items() if each["verdict"] == "problem"} == {"current version"}
    assert "push --force" in found["current version"]["fix"]


def test_a_forced_push_of_the_primary_repairs_a_damaged_pointer(bucket_world: World) -> None:
    a, b = pushed_twice(bucket_world), bucket_world.node("b")
    b.run("pull")
    b.remember("other")
    bucket_world.put(bucket_world.keys.pointer, b"[]")
    b.run("push", "--force", code=3)
    a.run("push", "--force")
    assert bucket_world.current().epoch == 1
    assert bucket_world.plain_sessions() == {"one", "two"}


def test_a_restore_repairs_a_damaged_pointer(bucket_world: World) -> None:
    a = pushed_twice(bucket_world)
    bucket_world.put(bucket_world.keys.pointer, TRUNCATED)
    a.run("restore", a.run("history", "--json").json[-1]["sha256"])
    assert a.sessions == bucket_world.plain_sessions() == {"one"}


@pytest.mark.parametrize("content", [TRUNCATED, b'{"canonical_id": "0000000000000000"}'])
def test_a_lease_that_is_damaged_or_anothers_stops_no_pull_and_can_be_removed(
    bucket_world: World, content: bytes
) -> None:
    a, b, key = pushed_twice(bucket_world), bucket_world.node("b"), bucket_world.keys.lease
    if content is not TRUNCATED:
        content = json.dumps(json.loads(bucket_world.get(key)) | json.loads(content)).encode()
    bucket_world.put(key, content)
    pulled = b.run("pull")
    assert "nobody is primary" in pulled.err
    assert b.sessions == {"one", "two"}
    a.remember("three")
    assert key in a.run("push", code=1).err
    assert key in findings(a, code=1)["role"]["fix"]
    bucket_world.ask(lambda store: store.delete(key))
    a.run("push")
    assert (bucket_world.current().epoch, bucket_world.plain_sessions()) == (2, {"one", "two", "three"})


def test_before_anybody_leads_a_dry_push_the_doctor_and_status_say_that_a_push_takes_the_lead(world: World) -> None:
    a = world.node("a")
    a.remember("one")
    assert "a push takes the lead" in a.run("push", "--dry-run").out
    assert not world.exists(world.keys.pointer)
    told = a.status()
    assert (told["standing"]["takes_lead"], told["advice"]) == (True, "bloom sync push")
    role = findings(a)["role"]
    assert role["verdict"] == "ok"
    assert "a push takes the lead" in role["text"]
    a.run("push")
    assert a.status()["standing"]["takes_lead"] is False


def test_the_doctor_lists_all_missing_and_wrong_settings_at_once(bucket_world: World) -> None:
    also = {"CLAUDE_PROJECT_ID": "", "BLOOM_SYNC_DIR": "", "MINIO_ENDPOINT": "minio", "MEMBRIDGE_URL": "http://h"}
    names = {"CLAUDE_PROJECT_ID", "MINIO_BUCKET", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MEMBRIDGE_ADMIN_KEY"}
    a = bucket_world.node("a")
    assert set(findings(a, 1, also)) == names
    assert set(findings(a, 1, also | {"LOCK_TTL_SECONDS": "soon"})) == names | {"LOCK_TTL_SECONDS"}
    told = a.run("doctor", code=1, also=also)
    assert all(name in told.out for name in names)
    assert not told.err


def test_a_secondary_with_unpushed_rows_is_not_sent_in_a_circle(world: World) -> None:
    pushed_twice(world)
    b = world.node("b")
    b.run("pull")
    b.remember("own")
    told = b.status()
    assert told["relation"] == "local_ahead"
    assert "pull" not in told["advice"]
    assert "only the primary (a) pushes" in told["advice"]
    assert told["advice"] in b.run("pull", "--merge").out


def test_a_file_that_never_was_a_database_is_left_alone(bucket_world: World) -> None:
    a = pushed_twice(bucket_world)
    notes = a.database.with_name("notes.txt")
    notes.write_text("mine\n" * 1000)
    version = a.run("history", "--json").json[0]["sha256"]
    for _ in range(2):
        found = findings(a, 1, {"CLAUDE_MEM_DB": str(notes)})["database"]
        assert found["fix"] == "check CLAUDE_MEM_DB"
        assert "CLAUDE_MEM_DB" in a.run("restore", version, code=1, CLAUDE_MEM_DB=str(notes)).err
    assert notes.read_text() == "mine\n" * 1000
    a.database.write_bytes(b"broken" * 1000)
    a.run("restore", version)
    assert a.sessions == {"one", "two"}


def test_a_version_with_a_key_of_the_wrong_form_is_named_with_its_remedy(tmp_path: Path) -> None:
    version = Version("ab" * 32, 1, "../x", 1)
    with pytest.raises(SyncError, match=r"version abababababab .*push --force.*restore"):
        asyncio.run(download(DirectoryBlobs(tmp_path), version, tmp_path / "file"))


def test_a_damaged_memory_is_named_with_what_helps_and_a_pull_says_that_it_was_kept(bucket_world: World) -> None:
    pushed_twice(bucket_world)
    b = bucket_world.node("b")
    b.remember("own")
    with claude_mem.opened(b.database) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, ' text TEXT,', ' text TEXT NOT NULL,')")
    refused = [b.run("push", code=1).err]
    b.database.write_bytes(b"broken" * 1000)
    refused.append(b.run("push", code=1).err)
    for error, why in zip(refused, ("integrity check fails: NULL value", "not a whole SQLite database"), strict=True):
        assert str(b.database) in error and why in error and "bloom sync doctor" in error
        assert "bloom-snapshot" not in error
    assert "no sound database" in b.run("pull").err
    assert b.sessions == {"one", "two"}


def test_a_directory_at_the_place_of_the_memory_is_said_to_be_one(bucket_world: World) -> None:
    a = bucket_world.node("a")
    a.database.mkdir(parents=True)
    assert "CLAUDE_MEM_DB" in a.run("push", code=1).err
    assert "irectory" in a.run("push", code=1).err


def test_a_database_without_tables_has_nothing_to_merge(bucket_world: World) -> None:
    pushed_twice(bucket_world)
    b = bucket_world.node("b")
    b.database.parent.mkdir(exist_ok=True)
    b.database.touch()
    assert b.run("pull", "--merge", "--json").json["status"] == "pulled"
    assert b.sessions == {"one", "two"}


def test_by_a_lease_that_waits_for_a_selection_nobody_leads(bucket_world: World) -> None:
    lease = {"primary_node_id": None, "epoch": 1, "expires_at": 9_999_999_999_999, "needs_ui_selection": True}
    bucket_world.put(bucket_world.keys.lease, json.dumps(lease).encode())
    a = bucket_world.node("a")
    a.remember("one")
    assert "waits for a selection" in a.run("push", code=3).err
    lease |= {"primary_node_id": "b", "issued_by": "b", "expires_at": 1_000}
    bucket_world.put(bucket_world.keys.lease, json.dumps(lease).encode())
    a.run("push")
    assert bucket_world.current().epoch == 2


def test_a_project_without_a_name_is_refused(bucket_world: World) -> None:
    assert "--project" in bucket_world.node("a").run("status", "--project", "  ", code=1).err
