"""`kill -9` at every step of push and pull: a rerun finds a sound database with every acknowledged row, and no obstacle."""

import json
import signal
import time
from pathlib import Path

import claude_mem
import pytest
from nodes import Ended, Node, Stopped, World, Zygote
from worlds import make_world

PUSH_STEPS = [
    "snapshot.copied",
    "push.snapshot_taken",
    "push.locked",
    "push.version_stored",
    "push.version_complete",
    "push.intent_saved",
    "push.pointer_moved",
    "push.state_saved",
    "plain.pointer_published",
    "plain.file_written",
    "plain.hash_written",
    "plain.manifest_written",
    "push.pruned",
    "push.unlocked",
]
PULL_STEPS = [
    "pull.downloading",
    "pull.downloaded",
    "pull.checked",
    "pull.process_stopped",
    "snapshot.copied",
    "pull.backed_up",
    "database.being_replaced",
    "database.replaced",
    "pull.brought_in",
    "pull.process_started",
    "pull.state_saved",
]


def in_step(world: World) -> tuple[Node, Node]:
    """a leads; b has what a pushed first."""
    a, b = world.node("a"), world.node("b")
    a.remember("one", observations=200)
    a.run("push")
    b.run("pull")
    return a, b


@pytest.fixture(scope="module")
def plane_pair(
    request: pytest.FixtureRequest, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Node, Node]:
    """Two nodes in step that the tests share: each leaves them in step."""
    return in_step(make_world(request, zygote, tmp_path_factory.mktemp("plane"), "directory", "plane"))


@pytest.fixture(scope="module")
def bucket_pair(
    request: pytest.FixtureRequest, zygote: Zygote, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Node, Node]:
    """The same without a control plane."""
    return in_step(make_world(request, zygote, tmp_path_factory.mktemp("bucket"), "directory", "bucket"))


def kill_at(step: str, node: Node, *argv: str) -> None:
    """Kill the command at the step, which it has to reach."""
    reached = node.start(*argv, at=step)
    assert isinstance(reached, Stopped), reached
    reached.kill()


@pytest.mark.parametrize("step", PUSH_STEPS)
def test_a_push_that_is_killed_is_finished_by_the_next(plane_pair: tuple[Node, Node], step: str) -> None:
    push_again_after_a_kill(*plane_pair, step)


@pytest.mark.parametrize("step", ["push.locked", "push.intent_saved", "push.pointer_moved", "plain.file_written"])
def test_a_push_that_is_killed_is_finished_by_the_next_without_a_control_plane(
    bucket_pair: tuple[Node, Node], step: str
) -> None:
    push_again_after_a_kill(*bucket_pair, step)


def push_again_after_a_kill(a: Node, b: Node, step: str) -> None:
    before = a.sessions
    a.remember(f"killed at {step}")
    kill_at(step, a, "push")
    assert a.is_whole()
    # Whoever comes in between gets the old state or the new one, or refuses; rows that were acknowledged are there.
    between = b.start("pull")
    assert isinstance(between, Ended) and between.code in (0, 1)
    assert b.is_whole()
    assert b.sessions in (before, before | {f"killed at {step}"})
    a.remember(f"after {step}")
    a.run("push")
    assert a.sessions == a.world.plain_sessions() == before | {f"killed at {step}", f"after {step}"}
    b.run("pull")
    assert b.sessions == a.sessions
    assert a.is_whole() and b.is_whole()
    assert not a.world.exists(a.world.keys.lock)
    assert not [path for path in a.database.parent.iterdir() if "snapshot" in path.name]


@pytest.mark.parametrize(
    ("step", "local"),
    [
        *((step, "changed") for step in PULL_STEPS),
        *((step, "missing") for step in ("pull.downloading", "database.replaced", "pull.state_saved")),
    ],
)
def test_a_pull_that_is_killed_leaves_the_old_or_the_new_and_is_finished_by_the_next(
    bucket_pair: tuple[Node, Node], step: str, local: str
) -> None:
    a, b = bucket_pair
    a.remember(f"{local} {step}")
    a.run("push")
    if local == "changed":
        b.remember(f"own at {step}")
    else:
        b.database.unlink()
    old = b.sessions
    kill_at(step, b, "pull")
    assert b.sessions in (old, a.sessions)
    if b.database.exists():
        assert b.is_whole()
    b.run("pull")
    assert b.is_whole()
    assert claude_mem.rows(b.database) == claude_mem.rows(a.database)
    kept = b.database.with_name("claude-mem.db.bloom-backups").glob("*.db")
    assert local == "missing" or any(claude_mem.sessions(copy) == old for copy in kept)
    leftovers = ("download", "snapshot", "unfinished", "journal")
    assert not [path for path in b.database.parent.rglob("*") if any(word in path.name for word in leftovers)]


@pytest.mark.parametrize("step", ["pull.merged", "database.being_replaced", "database.replaced", "pull.state_saved"])
def test_a_merge_that_is_killed_loses_and_doubles_nothing(bucket_world: World, step: str) -> None:
    a, b = in_step(bucket_world)
    a.remember("two")
    a.run("push")
    b.remember("own")
    kill_at(step, b, "pull", "--merge")
    assert b.sessions in ({"one", "own"}, {"one", "two", "own"})
    b.run("pull", "--merge")
    assert b.sessions == {"one", "two", "own"}
    assert len(claude_mem.rows(b.database)["observations"]) == 204
    assert b.is_whole()


@pytest.mark.parametrize(
    "step", ["pull.downloaded", "restore.pointer_moved", "plain.file_written", "database.replaced"]
)
def test_a_restore_that_is_killed_is_finished_by_the_next(plane_world: World, step: str) -> None:
    world = plane_world
    a, b = in_step(world)
    first = world.current().sha256
    a.remember("two")
    a.run("push")
    kill_at(step, a, "restore", first[:12])
    assert a.is_whole()
    a.run("restore", first[:12])
    b.run("pull")
    assert a.sessions == b.sessions == world.plain_sessions() == {"one"}


def test_the_lock_of_a_killed_push_holds_others_up_until_it_ends(bucket_world: World) -> None:
    a, b = in_step(bucket_world)
    a.remember("two")
    kill_at("push.locked", a, "push")
    b.remember("three")
    allowed = {"ALLOW_SECONDARY_PUSH": "1"}
    refused = b.run("push", "--json", code=1, also=allowed)
    assert json.loads(refused.err)["code"] == "locked"
    lock = json.loads(bucket_world.get(bucket_world.keys.lock))
    assert {"hostname", "timestamp", "project", "canonical_id"} <= lock.keys()
    lock |= {"expires_at": int(time.time() * 1000) - 61_000}
    bucket_world.put(bucket_world.keys.lock, json.dumps(lock).encode())
    b.run("push", also=allowed)
    assert not bucket_world.exists(bucket_world.keys.lock)


def test_a_new_leader_does_not_wait_for_the_lock_of_an_old_one(plane_world: World) -> None:
    world = plane_world
    a, b = in_step(world)
    a.remember("two")
    kill_at("push.locked", a, "push")
    world.promote("b")
    b.remember("three")
    b.run("push")
    assert world.plain_sessions() == {"one", "three"}


def test_sigterm_ends_a_push_and_releases_its_lock(bucket_world: World) -> None:
    a, _ = in_step(bucket_world)
    a.remember("two")
    stopped = a.stop_at("push.version_stored", "push")
    ended = stopped.resume(signal.SIGTERM)
    assert ended.code == 130, ended
    assert not bucket_world.exists(bucket_world.keys.lock)
    assert not Path(f"{a.database}.bloom-snapshot").exists()
    a.run("push")
