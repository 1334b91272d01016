"""Who may push: the holder of the present epoch, whatever an old one does when it wakes up."""

import json
import re
from pathlib import Path

import pytest
from nodes import Node, World


def two_nodes_in_step(world: World) -> tuple[Node, Node]:
    """a leads, b has pulled what a pushed."""
    a, b = world.node("a"), world.node("b")
    a.remember("one")
    a.run("push")
    b.run("pull")
    return a, b


def test_the_late_push_of_an_old_leader_is_refused(any_world: World) -> None:
    a, b = two_nodes_in_step(any_world)
    a.remember("late")
    any_world.promote("b")
    b.remember("new")
    b.run("push")
    a.run("push", code=3)
    a.run("push", "--force", code=3)
    assert any_world.plain_sessions() == {"one", "new"}
    assert any_world.current().node_id == "b"
    a.run("pull", "--merge")
    assert a.sessions == {"one", "new", "late"}


@pytest.mark.parametrize("step", ["push.locked", "push.version_stored", "push.version_complete", "push.intent_saved"])
def test_an_old_leader_that_wakes_up_before_the_pointer_moves_is_refused(plane_world: World, step: str) -> None:
    refused_after_sleep(plane_world, step)


def test_an_old_leader_that_wakes_up_is_refused_without_a_control_plane_too(bucket_world: World) -> None:
    refused_after_sleep(bucket_world, "push.version_complete")


def refused_after_sleep(world: World, step: str) -> None:
    a, b = two_nodes_in_step(world)
    a.remember("late")
    asleep = a.stop_at(step, "push")
    world.promote("b")
    b.remember("new")
    b.run("push")
    woken = asleep.resume()
    assert woken.code == 3, woken
    assert world.current().node_id == "b"
    assert world.plain_sessions() == {"one", "new"}
    assert not world.exists(world.keys.lock)


@pytest.mark.parametrize(
    "step",
    [
        "push.pointer_moved",
        "push.state_saved",
        "plain.pointer_published",
        "plain.file_written",
        "plain.hash_written",
        "plain.manifest_written",
    ],
)
def test_an_old_leader_that_wakes_up_amid_the_plain_copy_leaves_the_new_leaders(plane_world: World, step: str) -> None:
    a, b = two_nodes_in_step(plane_world)
    a.remember("acknowledged")
    asleep = a.stop_at(step, "push")
    plane_world.promote("b")
    b.run("pull", "--merge")
    b.remember("new")
    b.run("push")
    asleep.resume()
    assert plane_world.plain_sessions() == {"one", "acknowledged", "new"}
    assert plane_world.current().node_id == "b"
    assert b.status()["plain_is_current"] is True


def test_an_old_leaders_file_over_the_new_ones_is_noticed_and_repaired(world: World) -> None:
    a, b = two_nodes_in_step(world)
    old = world.pull_plainly()
    assert old is not None
    a.remember("two")
    a.run("push")
    world.put(world.keys.plain, old)
    assert world.pull_plainly() is None
    assert b.status()["plain_is_current"] is False
    b.run("pull")
    assert b.sessions == world.plain_sessions() == {"one", "two"}


def test_in_a_bucket_without_conditional_writes_the_new_leaders_version_comes_back(bucket_world: World) -> None:
    a, b = two_nodes_in_step(bucket_world)
    state = a.database.with_name("claude-mem.db.bloom-sync.json")
    state.write_text(json.dumps(json.loads(state.read_text()) | {"conditions": False}))
    a.remember("late")
    asleep = a.stop_at("bucket.pointer_about_to_move", "push")
    bucket_world.promote("b")
    b.remember("new")
    b.run("push")
    assert asleep.resume().code == 3
    assert bucket_world.current().node_id == "b"
    a.run("pull")
    assert bucket_world.plain_sessions() == a.sessions == {"one", "new"}


def test_in_a_bucket_with_conditional_writes_the_pointer_does_not_move_back(bucket_world: World) -> None:
    a, b = two_nodes_in_step(bucket_world)
    a.remember("late")
    asleep = a.stop_at("bucket.pointer_about_to_move", "push")
    bucket_world.promote("b")
    b.remember("new")
    b.run("push")
    pointer = bucket_world.get(bucket_world.keys.pointer)
    assert asleep.resume().code == 3
    assert bucket_world.get(bucket_world.keys.pointer) == pointer


def test_without_a_lease_only_the_named_node_leads(bucket_world: World) -> None:
    b = bucket_world.node("b")
    b.remember("one")
    refused = b.run("push", code=3)
    assert "PRIMARY_NODE_ID" in refused.err or "a is to lead" in refused.err
    assert not bucket_world.exists(bucket_world.keys.lease)
    b.run("push", PRIMARY_NODE_ID="b")
    lease = json.loads(bucket_world.get(bucket_world.keys.lease))
    assert (lease["primary_node_id"], lease["epoch"], lease["policy"]) == ("b", 1, "primary_authoritative")
    a = bucket_world.node("a")
    a.remember("two")
    a.run("push", code=3)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"primary_node_id": "a"}', b'{"expires_at": "soon", "epoch": 1}']
)
def test_an_unreadable_lease_makes_nobody_primary(bucket_world: World, content: bytes) -> None:
    a = bucket_world.node("a")
    a.remember("one")
    bucket_world.put(bucket_world.keys.lease, content)
    a.run("push", code=1)
    assert bucket_world.get(bucket_world.keys.lease) == content
    assert not bucket_world.exists(bucket_world.keys.pointer)


def test_a_lease_of_the_named_node_is_renewed_and_one_that_ended_goes_to_the_named_node(bucket_world: World) -> None:
    a, b, key = bucket_world.node("a"), bucket_world.node("b"), bucket_world.keys.lease
    a.remember("one")
    a.run("push")
    before = json.loads(bucket_world.get(key))
    ended = before | {"expires_at": before["issued_at"] - 1}
    bucket_world.put(key, json.dumps(ended).encode())
    a.remember("two")
    a.run("push")
    renewed = json.loads(bucket_world.get(key))
    assert (renewed["epoch"], renewed["primary_node_id"]) == (1, "a")
    assert renewed["expires_at"] > before["issued_at"]
    b.run("pull")
    bucket_world.put(key, json.dumps(ended).encode())
    b.remember("three")
    b.run("push", code=3)
    b.run("push", PRIMARY_NODE_ID="b")
    taken = json.loads(bucket_world.get(key))
    assert (taken["epoch"], taken["primary_node_id"]) == (2, "b")


def test_a_lease_that_the_control_plane_issued_is_not_renewed_by_a_node(bucket_world: World) -> None:
    a, key = bucket_world.node("a"), bucket_world.keys.lease
    lease = {"primary_node_id": "a", "epoch": 7, "expires_at": 1_000, "issued_by": "membridge"}
    bucket_world.put(key, json.dumps(lease).encode())
    a.remember("one")
    a.run("push", code=3)
    assert json.loads(bucket_world.get(key)) == lease


def test_each_term_of_a_node_that_leads_by_the_bucket_leaves_a_copy_of_its_lease(bucket_world: World) -> None:
    a = bucket_world.node("a", LEADERSHIP_LEASE_SECONDS="1")
    for session in ("one", "two"):
        a.remember(session)
        a.run("push")
    lease = json.loads(bucket_world.get(bucket_world.keys.lease)) | {
        "primary_node_id": "b",
        "issued_by": "b",
        "expires_at": 1,
    }
    bucket_world.put(bucket_world.keys.lease, json.dumps(lease).encode())
    a.remember("three")
    a.run("push")
    directory = bucket_world.directory / "store" / Path(bucket_world.keys.lease).parent / "audit"
    copies = sorted(directory.iterdir())
    assert [json.loads(path.read_bytes())["epoch"] for path in copies] == [1, 2]
    assert all(re.fullmatch(r"\d{8}T\d{6}\.\d{3}Z-a\.json", path.name) for path in copies)


def test_without_a_fence_an_operator_may_let_a_secondary_push(bucket_world: World) -> None:
    _, b = two_nodes_in_step(bucket_world)
    b.remember("two")
    b.run("push", ALLOW_SECONDARY_PUSH="1")
    assert bucket_world.plain_sessions() == {"one", "two"}


def test_with_a_control_plane_only_its_primary_pushes_whatever_is_allowed(plane_world: World) -> None:
    _, b = two_nodes_in_step(plane_world)
    b.remember("two")
    refused = b.run("push", "--json", code=3, ALLOW_SECONDARY_PUSH="1", FORCE_PUSH="1")
    assert json.loads(refused.err)["code"] == "is_secondary"
    assert plane_world.plain_sessions() == {"one"}


def test_while_the_control_plane_is_away_pulls_go_by_the_bucket_and_pushes_wait(plane_world: World) -> None:
    a, b = plane_world.node("a"), plane_world.node("b")
    away = {"MEMBRIDGE_URL": "http://127.0.0.1:9"}
    a.remember("one")
    a.run("push")
    plane = plane_world.plane
    assert plane is not None
    b_pulled = b.run("pull", "--json", also=away).json
    assert b_pulled["status"] == "pulled"
    assert "cannot be reached" in b_pulled["warnings"][0]
    assert b.sessions == {"one"}
    a.remember("two")
    refused = a.run("push", "--json", code=1, also=away)
    assert json.loads(refused.err)["code"] == "unreachable"
    assert plane.key not in refused.err


def test_a_wrong_key_is_said_and_not_shown(plane_world: World) -> None:
    a = plane_world.node("a")
    a.remember("one")
    for command in ("push", "pull", "status"):
        refused = a.run(command, code=1, MEMBRIDGE_ADMIN_KEY="an-entirely-wrong-key")
        assert "MEMBRIDGE_ADMIN_KEY" in refused.err
        assert "entirely" not in refused.err + refused.out
