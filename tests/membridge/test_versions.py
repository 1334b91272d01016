"""The versions of a project's memory and the pointer to the current one."""

from typing import Any

import pytest
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import refused, told

from bloom.membridge.model import canonical_id_of

CID = canonical_id_of("project")
VERSIONS = f"/projects/{CID}/versions"
ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


@pytest.fixture
def led(plane: Membridge) -> Membridge:
    """A control plane with a project that node `a` leads in epoch 1, beside node `b`."""
    plane.heartbeat("a")
    plane.heartbeat("b")
    return plane


def body(sha: str, based_on: str | None = None, **fields: Any) -> dict[str, Any]:
    key = f"projects/{CID}/sqlite/versions/{fields.get('epoch', 1)}-{sha}/claude-mem.db"
    return {"node_id": "a", "epoch": 1, "sha256": sha, "key": key, "db_size": 4096, "based_on": based_on, **fields}


def test_a_push_of_the_primary_moves_the_pointer_and_is_audited(led: Membridge) -> None:
    assert refused(led.get(f"{VERSIONS}/current"), 404) == "version_not_found"
    made = told(led.post(VERSIONS, body(ONE, counts={"observations": 3})), 201)
    at = made.pop("created_at_ms")
    assert made == {**body(ONE, counts={"observations": 3}), "current": True}
    assert told(led.get(f"{VERSIONS}/current")) == {**made, "created_at_ms": at}
    assert {node["node_id"]: node["db_sha"] for node in led.leadership()["nodes"]} == {"a": ONE, "b": None}
    entry = told(led.get("/audit", entity_id=CID, limit=1))[0]
    assert (entry["action"], entry["actor"]) == ("version_pushed", "node:a")
    assert (entry["detail"]["old"], entry["detail"]["new"], entry["detail"]["epoch"]) == (None, ONE, 1)


def test_a_push_again_answers_with_the_same_version_also_when_the_lease_has_ended(
    led: Membridge, database: FreshDatabase
) -> None:
    made = told(led.post(VERSIONS, body(ONE)), 201)
    database.edit("update membridge.projects set expires_at = now() - interval '1 second'")
    assert told(led.post(VERSIONS, body(ONE)), 200) == made
    assert refused(led.post(VERSIONS, body(TWO, ONE)), 409) == "stale_epoch"


@pytest.mark.parametrize(
    "key",
    [
        "k",
        body(ONE, epoch=2)["key"],
        body(TWO)["key"],
        body(ONE)["key"].replace(CID, "0" * 16),
        "/" + body(ONE)["key"],
        body(ONE)["key"] + "/",
    ],
)
def test_a_version_lies_nowhere_but_under_its_own_key(led: Membridge, key: str) -> None:
    answer = led.post(VERSIONS, body(ONE, key=key))
    assert refused(answer, 400) == "invalid"
    assert answer.json()["error"]["fieldErrors"] == {"key": [f"Must be {body(ONE)['key']}"]}
    assert told(led.get(VERSIONS)) == []


def test_versions_are_listed_newest_first_and_one_is_current(led: Membridge) -> None:
    told(led.post(VERSIONS, body(ONE)), 201)
    told(led.post(VERSIONS, body(TWO, ONE)), 201)
    told(led.post(VERSIONS, body(THREE, TWO)), 201)
    listed = told(led.get(VERSIONS))
    assert [(version["sha256"], version["current"]) for version in listed] == [
        (THREE, True),
        (TWO, False),
        (ONE, False),
    ]
    assert [version["sha256"] for version in told(led.get(VERSIONS, limit=2))] == [THREE, TWO]
    assert refused(led.get(VERSIONS, limit=0), 400) == refused(led.get(VERSIONS, limit=1001), 400) == "invalid"


@pytest.mark.parametrize("fields", [{"node_id": "b"}, {"epoch": 0}, {"epoch": 2}, {"node_id": "ghost"}])
def test_only_the_holder_of_the_present_epoch_moves_the_pointer(led: Membridge, fields: dict[str, Any]) -> None:
    told(led.post(VERSIONS, body(ONE)), 201)
    answer = led.post(VERSIONS, body(TWO, ONE, force=True, **fields))
    assert refused(answer, 409) == "stale_epoch"
    assert (answer.json()["epoch"], answer.json()["primary_node_id"]) == (1, "a")
    restored = led.post(f"{VERSIONS}/{ONE}/restore", {"node_id": "a", "epoch": 1, **fields})
    assert refused(restored, 409) == "stale_epoch"
    assert told(led.get(f"{VERSIONS}/current"))["sha256"] == ONE


def test_a_leader_of_before_cannot_push_once_another_leads(led: Membridge) -> None:
    told(led.post(VERSIONS, body(ONE)), 201)
    led.select("b")
    assert refused(led.post(VERSIONS, body(TWO, ONE)), 409) == "stale_epoch"
    told(led.post(VERSIONS, body(TWO, ONE, node_id="b", epoch=2)), 201)
    led.select("a")
    assert refused(led.post(VERSIONS, body(THREE, TWO)), 409) == "stale_epoch", "its own old epoch is not the new one"


def test_a_push_on_old_ground_is_refused_unless_it_is_forced(led: Membridge) -> None:
    told(led.post(VERSIONS, body(ONE)), 201)
    told(led.post(VERSIONS, body(TWO, ONE)), 201)
    for based_on in (None, ONE):
        answer = led.post(VERSIONS, body(THREE, based_on))
        assert refused(answer, 409) == "remote_moved" and answer.json()["current"] == TWO
    told(led.post(VERSIONS, body(THREE, ONE, force=True)), 201)
    assert told(led.get("/audit", entity_id=CID, limit=1))[0]["detail"]["forced"] is True


def test_an_old_version_is_restored_by_the_primary_and_audited(led: Membridge) -> None:
    told(led.post(VERSIONS, body(ONE)), 201)
    told(led.post(VERSIONS, body(TWO, ONE)), 201)
    holder = {"node_id": "a", "epoch": 1}
    assert told(led.post(f"{VERSIONS}/{ONE}/restore", holder))["current"] is True
    assert told(led.post(f"{VERSIONS}/{ONE}/restore", holder))["sha256"] == ONE
    assert [version["current"] for version in told(led.get(VERSIONS))] == [False, True]
    entries = told(led.get("/audit", entity_id=CID))
    assert [entry["action"] for entry in entries].count("version_restored") == 1
    assert (entries[0]["detail"]["old"], entries[0]["detail"]["new"]) == (TWO, ONE)
    assert refused(led.post(f"{VERSIONS}/{THREE}/restore", holder), 404) == "version_not_found"


def test_content_that_was_current_before_can_be_pushed_again_and_is_the_newest_then(led: Membridge) -> None:
    told(led.post(VERSIONS, body(ONE)), 201)
    told(led.post(VERSIONS, body(TWO, ONE)), 201)
    led.select("b")
    again = told(led.post(VERSIONS, body(ONE, TWO, node_id="b", epoch=2)), 201)
    assert again["key"] == body(ONE, epoch=2)["key"] and again["current"] is True
    assert [version["sha256"] for version in told(led.get(VERSIONS))] == [ONE, TWO]


def test_a_pruned_version_is_forgotten_and_the_current_one_never(led: Membridge) -> None:
    told(led.post(VERSIONS, body(ONE)), 201)
    told(led.post(VERSIONS, body(TWO, ONE)), 201)
    assert refused(led.delete(f"{VERSIONS}/{TWO}"), 409) == "version_is_current"
    assert led.delete(f"{VERSIONS}/{ONE}").status_code == 204
    assert refused(led.delete(f"{VERSIONS}/{ONE}"), 404) == "version_not_found"
    assert [version["sha256"] for version in told(led.get(VERSIONS))] == [TWO]


def test_versions_of_a_project_that_nobody_knows_are_not_found(plane: Membridge) -> None:
    for answer in (
        plane.get(VERSIONS),
        plane.get(f"{VERSIONS}/current"),
        plane.post(VERSIONS, body(ONE)),
        plane.post(f"{VERSIONS}/{ONE}/restore", {"node_id": "a", "epoch": 1}),
        plane.delete(f"{VERSIONS}/{ONE}"),
    ):
        assert refused(answer, 404) == "project_not_found"
