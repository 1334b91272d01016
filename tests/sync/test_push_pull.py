"""Two nodes and a store: what one pushes the other pulls."""

import json
import sqlite3
import time
from pathlib import Path

import claude_mem
import pytest
from nodes import Ended, World


def test_what_a_pushes_b_pulls_row_by_row(any_world: World) -> None:
    a, b = any_world.node("a"), any_world.node("b")
    a.remember("one", observations=40)
    a.remember("two")
    assert a.run("push", "--json").json["status"] == "pushed"
    assert b.run("pull", "--json").json["status"] == "pulled"
    assert claude_mem.rows(b.database) == claude_mem.rows(a.database)
    assert claude_mem.found(b.database, "one") == 40
    assert a.is_whole() and b.is_whole()
    assert a.run("push", "--json").json["status"] == b.run("pull", "--json").json["status"] == "equal"


def test_a_plain_client_finds_the_contracts_objects(any_world: World, tmp_path: Path) -> None:
    a = any_world.node("a")
    a.remember("one", observations=3)
    a.run("push")
    keys = any_world.keys
    content = any_world.pull_plainly()
    assert content is not None
    pulled = tmp_path / "plain.db"
    pulled.write_bytes(content)
    assert claude_mem.rows(pulled) == claude_mem.rows(a.database)
    manifest = json.loads(any_world.get(keys.plain_manifest))
    expected = {
        "project": any_world.project,
        "canonical_id": keys.canonical_id,
        "db_size": len(content),
        "observations": 3,
        "session_summaries": 1,
        "user_prompts": 1,
    }
    assert expected.items() <= manifest.items()
    assert {"source_host", "sha256", "tables"} <= manifest.keys()
    assert manifest["timestamp"] == pytest.approx(time.time() * 1000, abs=60_000)
    assert not any_world.exists(keys.lock)


def test_b_pulls_again_what_a_pushed_again_and_its_old_state_is_kept(bucket_world: World) -> None:
    a, b = bucket_world.node("a"), bucket_world.node("b")
    a.remember("one")
    a.run("push")
    b.run("pull")
    a.remember("two", observations=400)
    a.run("push")
    pulled = b.run("pull", "--json").json
    assert b.sessions == {"one", "two"}
    assert claude_mem.sessions(Path(pulled["backup"])) == {"one"}
    assert Path(pulled["backup"]).stat().st_mode & 0o777 == 0o600


def test_both_change_and_a_merge_keeps_both(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.remember("one")
    a.run("push")
    b.run("pull")
    a.remember("from a")
    b.remember("from b")
    a.run("push")
    merged = b.run("pull", "--merge", "--json").json
    assert merged["status"] == "merged"
    assert b.sessions == {"one", "from a", "from b"}
    assert b.is_whole()
    assert b.run("pull", "--merge", "--json").json["status"] == "nothing_new"
    world.promote("b")
    b.run("push")
    assert a.run("pull", "--json").json["status"] == "pulled"
    assert a.sessions == {"one", "from a", "from b"}


def test_a_secondary_does_not_push(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.remember("one")
    a.run("push")
    b.remember("two")
    refused = b.run("push", "--json", code=3)
    assert json.loads(refused.err)["code"] == "is_secondary"
    assert world.pull_plainly() == b.world.get(a.world.keys.plain)


def test_a_primary_whose_memory_differs_does_not_pull_unless_told_to(world: World) -> None:
    a = world.node("a")
    a.remember("one")
    a.run("push")
    a.remember("two")
    assert json.loads(a.run("pull", "--json", code=2).err)["code"] == "is_primary"
    assert a.sessions == {"one", "two"}
    a.run("pull", ALLOW_PRIMARY_PULL_OVERRIDE="1")
    assert a.sessions == {"one"}


def test_a_primary_without_a_memory_pulls(bucket_world: World) -> None:
    a = bucket_world.node("a")
    a.remember("one")
    a.run("push")
    a.database.unlink()
    a.run("pull")
    assert a.sessions == {"one"}


def test_a_push_over_a_remote_that_moved_on_is_refused_unless_forced(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.remember("one")
    a.run("push")
    world.promote("b")
    b.remember("other")
    refused = b.run("push", "--json", code=1)
    assert json.loads(refused.err)["code"] == "remote_moved"
    b.run("push", FORCE_PUSH="1")
    assert a.run("pull", "--json").json["status"] == "pulled"
    assert a.sessions == {"other"}
    world.promote("a")
    a.remember("more")
    a.run("push")


def test_before_the_first_push_there_is_nothing_to_pull(world: World) -> None:
    b = world.node("b")
    assert b.run("pull", "--json").json["status"] == "nothing_there"
    assert not b.database.exists()


def test_without_a_database_there_is_nothing_to_push(bucket_world: World) -> None:
    ended = bucket_world.node("a").run("push", "--json", code=1)
    assert json.loads(ended.err)["code"] == "no_database"


def test_a_dry_run_changes_nothing(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.remember("one")
    if world.plane is not None:
        world.promote("a")
    assert a.run("push", "--dry-run", "--json").json["status"] == "would_push"
    assert b.run("pull", "--json").json["status"] == "nothing_there"
    a.run("push")
    assert b.run("pull", "--dry-run", "--json").json["status"] == "would_pull"
    assert not b.database.exists()


def test_rows_that_are_still_in_the_wal_are_pushed(bucket_world: World) -> None:
    a, b = bucket_world.node("a"), bucket_world.node("b")
    a.remember("one")
    with claude_mem.opened(a.database) as writer:
        writer.execute("UPDATE sdk_sessions SET custom_title = 'in the wal'")
        writer.commit()
        assert a.database.with_name("claude-mem.db-wal").stat().st_size > 0
        a.run("push")
        writer.execute("UPDATE sdk_sessions SET custom_title = 'pushed too'")
        writer.commit()
        assert a.run("push", "--json").json["status"] == "pushed"
    b.run("pull")
    with claude_mem.opened(b.database) as reader:
        assert reader.execute("SELECT custom_title FROM sdk_sessions").fetchone() == ("pushed too",)


def test_a_pull_under_an_open_connection_shows_it_the_new_rows(bucket_world: World) -> None:
    a, b = bucket_world.node("a"), bucket_world.node("b")
    a.remember("one")
    a.run("push")
    b.remember("old")
    with claude_mem.opened(b.database) as reader:
        assert reader.execute("SELECT content_session_id FROM sdk_sessions").fetchall() == [("content-old",)]
        b.run("pull")
        assert reader.execute("SELECT content_session_id FROM sdk_sessions").fetchall() == [("content-one",)]
    assert b.is_whole()


def test_a_wal_left_by_a_killed_writer_does_not_undo_a_pull(bucket_world: World, tmp_path: Path) -> None:
    a, b = bucket_world.node("a"), bucket_world.node("b")
    a.remember("one")
    a.run("push")
    b.remember("old")
    with claude_mem.opened(b.database) as writer:
        writer.execute("UPDATE sdk_sessions SET custom_title = 'in the wal'")
        writer.commit()
        left = {suffix: b.database.with_name(f"claude-mem.db{suffix}").read_bytes() for suffix in ("", "-wal", "-shm")}
    for suffix, content in left.items():
        b.database.with_name(f"claude-mem.db{suffix}").write_bytes(content)
    b.run("pull")
    assert b.sessions == {"one"}
    assert b.is_whole()


def test_what_is_no_database_any_more_is_kept_and_replaced(bucket_world: World) -> None:
    a, b = bucket_world.node("a"), bucket_world.node("b")
    a.remember("one")
    a.run("push")
    b.database.parent.mkdir()
    b.database.write_bytes(b"not a database at all" * 100)
    pulled = b.run("pull", "--json").json
    assert b.sessions == {"one"}
    assert Path(pulled["backup"]).read_bytes().startswith(b"not a database")
    b.database.write_bytes(b"broken again" * 100)
    assert json.loads(b.run("push", "--json", code=1).err)["code"] == "not_whole"


def test_a_damaged_database_is_not_pushed(bucket_world: World) -> None:
    a = bucket_world.node("a")
    a.remember("one", observations=300)
    with a.database.open("r+b") as file:
        file.seek(a.database.stat().st_size // 2)
        file.write(b"\xff" * 8192)
    assert "bad_database" in a.run("push", "--json", code=1).err
    assert not bucket_world.exists(bucket_world.keys.plain)


def test_the_same_rows_have_the_same_hash_on_every_node(bucket_world: World) -> None:
    a, b = bucket_world.node("a"), bucket_world.node("b")
    a.remember("one", observations=30)
    a.run("push")
    b.run("pull")
    with sqlite3.connect(b.database) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    db.close()
    b.database.with_name("claude-mem.db.bloom-sync.json").unlink()
    assert b.run("pull", "--json").json["status"] == "equal"


def test_nothing_of_ours_is_left_beside_the_database_but_state_and_copies(bucket_world: World) -> None:
    a, b = bucket_world.node("a"), bucket_world.node("b")
    a.remember("one")
    a.run("push")
    b.remember("old")
    b.run("pull")
    for node, names in ((a, []), (b, ["claude-mem.db.bloom-backups"])):
        found = sorted(path.name for path in node.database.parent.iterdir())
        ours = ["claude-mem.db.bloom-sync.json", "claude-mem.db.bloom-sync.lock"]
        assert found == sorted(["claude-mem.db", *ours, *names])


@pytest.mark.parametrize("beyond_bytes", [-40_000, 500])
def test_a_full_disk_leaves_the_old_memory_and_the_next_pull_finishes(bucket_world: World, beyond_bytes: int) -> None:
    a, b = bucket_world.node("a"), bucket_world.node("b")
    a.remember("one", observations=200)
    a.run("push")
    b.remember("old")
    # Either the download does not fit, or only the -wal in which the new state comes in, which is a little larger.
    limit = len(bucket_world.get(bucket_world.keys.plain)) + beyond_bytes
    failed = b.start("pull", "--json", file_limit=limit)
    assert isinstance(failed, Ended)
    assert failed.code == 1, failed
    assert set(json.loads(failed.err)) == {"error", "code"}
    assert b.sessions == {"old"}
    assert b.is_whole()
    assert {path.name for path in b.database.parent.iterdir()} <= {
        "claude-mem.db",
        *(f"claude-mem.db.bloom-{name}" for name in ("backups", "sync.json", "sync.lock")),
    }
    b.run("pull")
    assert b.sessions == {"one"}


def test_a_push_on_a_full_disk_changes_nothing_there(bucket_world: World) -> None:
    a = bucket_world.node("a")
    a.remember("one")
    a.run("push")
    a.remember("two", observations=400)
    failed = a.start("push", file_limit=100_000)
    assert isinstance(failed, Ended)
    assert failed.code == 1, failed
    assert bucket_world.plain_sessions() == {"one"}
    assert not bucket_world.exists(bucket_world.keys.lock)
    a.run("push")
    assert bucket_world.plain_sessions() == {"one", "two"}


def test_a_place_where_no_database_can_be_is_said_in_one_line(bucket_world: World) -> None:
    (bucket_world.directory / "file").write_text("x")
    for command in ("push", "pull", "status"):
        ended = bucket_world.node("a").run(command, code=1, CLAUDE_MEM_DB=str(bucket_world.directory / "file" / "x.db"))
        assert len(ended.err.splitlines()) == 1
        assert "bug" not in ended.err
