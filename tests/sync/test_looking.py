"""What `bloom sync status` and `doctor` say, in words and as JSON."""

from collections.abc import Mapping
from typing import Any

import pytest
from nodes import SECRET, Node, World


def findings(node: Node, code: int = 0, also: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """What the doctor found, by name."""
    return {each["name"]: each for each in node.run("doctor", "--json", code=code, also=also).json["checks"]}


def test_status_names_the_relation_of_here_and_there(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    assert (b.status()["relation"], b.status()["advice"]) == ("no_local", "bloom sync pull")
    a.remember("one")
    assert a.status()["relation"] == "no_remote"
    a.run("push")
    b.run("pull")
    assert a.status()["relation"] == b.status()["relation"] == "equal"
    a.remember("two")
    assert (a.status()["relation"], a.status()["advice"]) == ("local_ahead", "bloom sync push")
    a.run("push")
    assert (b.status()["relation"], b.status()["advice"]) == ("remote_ahead", "bloom sync pull")
    b.remember("own")
    assert b.status()["relation"] == "diverged"
    b.database.write_bytes(b"broken" * 1000)
    assert b.status()["relation"] == "broken_local"
    assert "no sound database" in b.run("status").out


def test_status_names_role_epoch_and_counts(world: World) -> None:
    a, b = world.node("a"), world.node("b")
    a.remember("one", observations=7)
    a.run("push")
    b.run("pull")
    told = b.status()
    assert (told["standing"]["role"], told["standing"]["epoch"], told["standing"]["primary"]) == ("secondary", 1, "a")
    assert told["local"]["counts"]["observations"] == told["remote"]["counts"]["observations"] == 7
    assert told["plain_is_current"] is True
    words = b.run("status").out
    assert "b: secondary, epoch 1" in words and "7 observations, 1 summary, 1 prompt" in words


def test_status_changes_nothing(world: World) -> None:
    b = world.node("b")
    b.remember("one")
    before = b.database.read_bytes()
    b.status()
    assert b.database.read_bytes() == before
    assert not world.exists(world.keys.lease)


def test_the_doctor_finds_nothing_where_nothing_is_wrong(any_world: World) -> None:
    a = any_world.node("a")
    a.remember("one")
    a.run("push")
    found = findings(a)
    assert {each["verdict"] for each in found.values()} == {"ok"}
    names = ["directory", "database", "store", "conditional writes", "role", "current version", "lock", "plain copy"]
    assert list(found) == names


def test_the_doctor_names_a_broken_database(bucket_world: World) -> None:
    a = bucket_world.node("a")
    a.remember("one")
    a.run("push")
    a.database.write_bytes(b"broken" * 1000)
    found = findings(a, code=1)["database"]
    assert found["verdict"] == "problem"
    assert "bloom sync restore brings an older version back" in found["fix"]


def test_the_doctor_names_a_store_that_does_not_answer(bucket_world: World) -> None:
    a = bucket_world.node("a")
    a.remember("one")
    store = {"MINIO_ENDPOINT": "http://127.0.0.1:9", "MINIO_BUCKET": "memory"}
    keys = {"MINIO_ACCESS_KEY": "AKTEST", "MINIO_SECRET_KEY": SECRET}
    found = findings(a, 1, store | keys)
    assert "http://127.0.0.1:9/memory" not in found["database"]["text"]
    assert found["store"]["verdict"] == "problem"
    assert "MINIO_ENDPOINT" in found["store"]["fix"]


def test_the_doctor_names_a_plain_copy_that_is_stale_and_a_push_that_was_cut_off(bucket_world: World) -> None:
    a = bucket_world.node("a")
    a.remember("one")
    a.run("push")
    a.remember("two")
    a.stop_at("plain.file_written", "push").kill()
    found = findings(a)
    assert found["plain copy"]["verdict"] == found["lock"]["verdict"] == "warning"
    assert "this node was cut off" in found["lock"]["text"]
    a.run("push")
    assert {each["verdict"] for each in findings(a).values()} == {"ok"}


def test_the_doctor_names_a_control_plane_that_is_away(plane_world: World) -> None:
    a = plane_world.node("a")
    a.remember("one")
    a.run("push")
    found = findings(a, 1, {"MEMBRIDGE_URL": "http://127.0.0.1:9"})["Membridge"]
    assert "cannot be reached" in found["text"]
    found = findings(a, 1, {"MEMBRIDGE_ADMIN_KEY": "an-entirely-wrong-key"})["Membridge"]
    assert "MEMBRIDGE_ADMIN_KEY" in found["fix"]


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"CLAUDE_PROJECT_ID": ""}, "CLAUDE_PROJECT_ID"),
        ({"BLOOM_SYNC_DIR": ""}, "BLOOM_SYNC_DIR"),
        ({"MINIO_ENDPOINT": "http://user:pass-word@minio", "MINIO_BUCKET": "b"}, "MINIO_ENDPOINT"),
        ({"MINIO_ENDPOINT": "minio"}, "MINIO_BUCKET"),
        ({"MINIO_ENDPOINT": "minio", "MINIO_BUCKET": "memory"}, "MINIO_ACCESS_KEY"),
        ({"MEMBRIDGE_URL": "http://127.0.0.1:9"}, "MEMBRIDGE_ADMIN_KEY"),
        ({"MEMBRIDGE_URL": "http://u:pass-word@h", "MEMBRIDGE_ADMIN_KEY": "k"}, "MEMBRIDGE_URL"),
        ({"LOCK_TTL_SECONDS": "soon"}, "LOCK_TTL_SECONDS"),
        ({"FORCE_PUSH": "maybe"}, "FORCE_PUSH"),
    ],
)
def test_a_wrong_setting_is_named_with_exit_code_1(
    bucket_world: World, environment: dict[str, str], named: str
) -> None:
    assert named in bucket_world.node("a").run("doctor", code=1, also=environment).out
    for command in ("push", "pull", "status", "history"):
        ended = bucket_world.node("a").run(command, code=1, also=environment)
        assert named in ended.err
        assert "pass-word" not in ended.err
        assert len(ended.err.splitlines()) == 1
