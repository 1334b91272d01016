"""History, the way back, pruning, and copies that plain clients pushed past the leader."""

import hashlib
import json
import os
import time
from pathlib import Path

import claude_mem
from nodes import Node, World

from bloom.blobs.interface import all_objects


def versions(node: Node) -> list[str]:
    """The hashes in the history, newest first."""
    return [each["sha256"] for each in node.run("history", "--json").json]


def push_sessions(node: Node, *names: str) -> None:
    for name in names:
        node.remember(name)
        node.run("push")


def test_history_lists_the_versions_newest_first(any_world: World) -> None:
    a, b = any_world.node("a"), any_world.node("b")
    push_sessions(a, "one", "two")
    for node in (a, b):
        listed = node.run("history", "--json").json
        assert [(each["counts"]["observations"], each["current"]) for each in listed] == [(4, True), (2, False)]
        assert [each["node_id"] for each in listed] == ["a", "a"]
        assert listed[0]["based_on"] == listed[1]["sha256"]
    assert listed[0]["sha256"][:12] in b.run("history").out


def test_a_restored_version_is_current_everywhere_and_nothing_is_lost(any_world: World) -> None:
    a, b = any_world.node("a"), any_world.node("b")
    push_sessions(a, "one", "two")
    b.run("pull")
    newest, first = versions(a)
    a.remember("never pushed")
    restored = a.run("restore", first[:10], "--json").json
    assert a.sessions == any_world.plain_sessions() == {"one"}
    assert claude_mem.sessions(Path(restored["backup"])) == {"one", "two", "never pushed"}
    assert a.is_whole()
    b.run("pull")
    assert b.sessions == {"one"}
    assert set(versions(a)) == {newest, first}
    a.run("restore", newest)
    assert a.sessions == {"one", "two"}
    push_sessions(a, "three")
    assert any_world.plain_sessions() == {"one", "two", "three"}


def test_only_the_primary_restores(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    push_sessions(a, "one", "two")
    b.run("pull")
    b.run("restore", versions(b)[1], code=3)
    assert world.plain_sessions() == b.sessions == {"one", "two"}


def test_a_name_of_no_version_or_of_several_is_refused(bucket_world: World) -> None:
    a = bucket_world.node("a")
    push_sessions(a, "one")
    for wanted, code in (("12", "ambiguous_version"), ("zzzz", "no_version")):
        assert json.loads(a.run("restore", wanted, "--json", code=1).err)["code"] == code


def test_pruning_keeps_a_set_number_and_what_is_current(world: World) -> None:
    a = world.node("a", BLOOM_SYNC_KEEP_VERSIONS="2")
    push_sessions(a, "one", "two", "three", "four")
    kept = versions(a)
    assert len(kept) == 2
    a.run("restore", kept[1])
    push_sessions(a, "five")
    listed = a.run("history", "--json").json
    assert len(listed) == 2
    assert listed[0]["current"]
    stored = world.ask(lambda store: all_objects(store, world.keys.versions))
    assert {each.key.split("/")[-2].partition("-")[2] for each in stored} == {each["sha256"] for each in listed}


def test_a_memory_that_only_plain_clients_pushed_is_pulled_and_pushed_upon(world: World, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    claude_mem.remember(foreign, "foreign")
    push_plainly(world, foreign)
    a, b = world.node("a"), world.node("b")
    b.run("pull")
    assert b.sessions == {"foreign"}
    assert b.run("pull", "--json").json["status"] == "equal"
    a.remember("own")
    assert json.loads(a.run("push", "--json", code=1).err)["code"] == "remote_moved"
    a.run("pull", "--merge")
    a.run("push")
    assert world.plain_sessions() == {"foreign", "own"}


def test_a_plain_clients_push_past_the_leader_is_kept_before_it_is_repaired(world: World, tmp_path: Path) -> None:
    a, b = world.node("a"), world.node("b")
    push_sessions(a, "one")
    foreign = tmp_path / "foreign.db"
    claude_mem.remember(foreign, "foreign")
    push_plainly(world, foreign)
    b.run("pull")
    assert b.sessions == world.plain_sessions() == {"one"}
    stray = [each for each in a.run("history", "--json").json if each["epoch"] == 0]
    assert [each["node_id"] for each in stray] == ["old"]
    assert [each["sha256"] for each in stray] == [hashlib.sha256(foreign.read_bytes()).hexdigest()]
    a.run("restore", stray[0]["sha256"])
    assert a.sessions == world.plain_sessions() == {"foreign"}


def push_plainly(world: World, database: Path) -> None:
    """What a client does that knows the plain objects alone."""
    with claude_mem.opened(database) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = database.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    world.put(world.keys.plain, content)
    world.put(world.keys.plain_hash, f"{sha256}  claude-mem.db\n".encode())
    manifest = {
        "project": world.project,
        "sha256": sha256,
        "db_size": len(content),
        "source_host": "old",
        "observations": 2,
    }
    world.put(world.keys.plain_manifest, json.dumps(manifest).encode())


def test_what_no_version_lists_is_swept_when_it_is_old(plane_world: World) -> None:
    a = plane_world.node("a")
    push_sessions(a, "one")
    day = 86_400
    files = {"cut off, new": (0.5, False), "cut off": (2, False), "refused": (2, True), "refused long ago": (15, True)}
    directories: dict[str, Path] = {}
    for number, (name, (age_days, is_whole)) in enumerate(files.items()):
        key = plane_world.keys.version(1, f"{number:064x}")
        plane_world.put(key, b"x")
        if is_whole:
            plane_world.put(plane_world.keys.manifest_of(key), b"{}")
        directories[name] = (plane_world.directory / "store" / key).parent
        for path in directories[name].iterdir():
            os.utime(path, (moment := time.time() - age_days * day, moment))
    push_sessions(a, "two")
    left = {name for name, directory in directories.items() if directory.exists() and any(directory.iterdir())}
    assert left == {"cut off, new", "refused"}
    assert len(versions(a)) == 2
