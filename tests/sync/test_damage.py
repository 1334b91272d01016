"""What sync says and does where an object of the bucket, a setting or the local file is not what it should be."""

import asyncio
import json
from pathlib import Path

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
