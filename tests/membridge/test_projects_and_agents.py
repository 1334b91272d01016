"""Projects, agents and nodes: what is made, listed, kept and deleted."""

import hashlib
import time
from typing import Any

import pytest
from tests.membridge.conftest import StartPlane
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import refused, told

from bloom.membridge.model import canonical_id_of, version_key


def cid_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def test_a_project_is_made_once_and_listed_in_the_form_of_the_contract(plane: Membridge) -> None:
    made = told(plane.post("/projects", {"name": "garden"}), 201)
    assert made["canonical_id"] == cid_of("garden") == canonical_id_of("garden")
    assert refused(plane.post("/projects", {"name": "garden"}), 409) == "project_exists"
    (listed,) = told(plane.get("/projects"))
    assert listed == {
        "name": "garden",
        "canonical_id": cid_of("garden"),
        "created_at": made["created_at"],
        "last_seen": None,
        "nodes_count": 0,
        "source": "manual",
    }
    assert abs(listed["created_at"] - time.time()) < 60, "seconds"


def test_a_heartbeat_makes_its_project_and_the_project_counts_its_nodes(plane: Membridge) -> None:
    plane.heartbeat("a", "garden")
    plane.heartbeat("b", "garden")
    (listed,) = told(plane.get("/projects"))
    assert (listed["name"], listed["source"], listed["nodes_count"]) == ("garden", "heartbeat", 2)
    assert abs(listed["last_seen"] - time.time()) < 60, "seconds"
    assert refused(plane.post("/projects", {"name": "garden"}), 409) == "project_exists"


def test_a_project_that_is_known_by_its_id_alone_gets_its_name_from_whoever_tells_it(plane: Membridge) -> None:
    for name in ("by heartbeat", "by hand"):
        plane.heartbeat("a", name, project_id=None)
    assert {project["name"] for project in told(plane.get("/projects"))} == {cid_of("by heartbeat"), cid_of("by hand")}
    plane.heartbeat("a", "by heartbeat")
    told(plane.post("/projects", {"name": "by hand"}), 201)
    named = {project["name"]: project["source"] for project in told(plane.get("/projects"))}
    assert named == {"by heartbeat": "heartbeat", "by hand": "manual"}


def test_a_heartbeat_whose_name_and_id_do_not_belong_together_is_refused_and_makes_nothing(plane: Membridge) -> None:
    answer = plane.post("/agent/heartbeat", {"node_id": "a", "canonical_id": cid_of("one"), "project_id": "two"})
    assert refused(answer, 400) == "invalid" and list(answer.json()["error"]["fieldErrors"]) == ["project_id"]
    assert told(plane.get("/projects")) == []


def test_nodes_are_told_apart_by_project_and_keep_what_a_heartbeat_leaves_out(plane: Membridge) -> None:
    plane.heartbeat(
        "pi", "one", obs_count=7, db_sha="f" * 64, ip_addrs=["10.0.0.7"], agent_version="1.2", last_seen=1.5
    )
    plane.heartbeat("pi", "two", obs_count=9)
    plane.heartbeat("pi", "one")
    (node,) = told(plane.get(f"/projects/{cid_of('one')}/nodes"))
    assert abs(node["last_seen"] / 1000 - time.time()) < 60, "milliseconds, by the database's clock"
    assert abs(node["registered_at"] / 1000 - time.time()) < 60
    del node["last_seen"], node["registered_at"]
    assert node == {
        "node_id": "pi",
        "canonical_id": cid_of("one"),
        "role": "primary",
        "obs_count": 7,
        "db_sha": "f" * 64,
        "ip_addrs": ["10.0.0.7"],
        "project_id": "one",
        "agent_version": "1.2",
        "online": True,
    }
    (other,) = told(plane.get(f"/projects/{cid_of('two')}/nodes"))
    assert other["obs_count"] == 9 and other["db_sha"] is None


@pytest.mark.parametrize("by", ["name", "id"])
def test_a_deleted_project_takes_its_nodes_versions_and_jobs_along_and_says_so(
    plane: Membridge, database: FreshDatabase, by: str
) -> None:
    name = "a/b c"
    plane.heartbeat("a", name)
    told(plane.post("/agents", {"name": "m"}), 201)
    told(plane.post("/sync/push", {"project": name, "agent": "m"}))
    sha = "1" * 64
    key = version_key(cid_of(name), 1, sha)
    version = {"node_id": "a", "epoch": 1, "sha256": sha, "key": key, "db_size": 1}
    told(plane.post(f"/projects/{cid_of(name)}/versions", version), 201)
    path = f"/projects/{name if by == 'name' else cid_of(name)}"
    assert plane.delete(path).status_code == 204
    assert refused(plane.delete(path), 404) == "project_not_found"
    assert refused(plane.get(f"/projects/{cid_of(name)}/nodes"), 404) == "project_not_found"
    assert told(plane.get("/projects")) == told(plane.get("/jobs")) == []
    assert database.value("select count(*) from membridge.versions") == 0
    entry = told(plane.get("/audit", entity_id=cid_of(name), limit=1))[0]
    assert (entry["action"], entry["actor"]) == ("project_deleted", "admin")
    assert entry["detail"]["deleted"] == {"nodes": 1, "versions": 1, "jobs": 1}


def test_an_agent_is_updated_by_its_name_and_what_is_left_out_is_kept(plane: Membridge) -> None:
    capabilities = {"claude_cli": False, "max_concurrency": 4, "labels": ["gpu"]}
    body: dict[str, Any] = {"name": "pi", "url": "http://pi.example:8001/", "capabilities": capabilities}
    made = told(plane.post("/agents", body), 201)
    assert made["url"] == "http://pi.example:8001" and made["status"] == "online"
    assert abs(made["last_seen"] - time.time()) < 60, "seconds"
    again = told(
        plane.post("/agents", {"name": "pi", "status": "syncing", "capabilities": {"max_concurrency": 2}}), 200
    )
    assert again["capabilities"] == {"claude_cli": False, "max_concurrency": 2, "labels": ["gpu"]}
    assert again["url"] == "http://pi.example:8001" and again["registered_at"] == made["registered_at"]
    assert told(plane.post("/agents", {"name": "pi"}), 200)["status"] == "syncing"
    assert [agent["name"] for agent in told(plane.get("/agents"))] == ["pi"]
    assert plane.delete("/agents/pi").status_code == 204
    assert refused(plane.delete("/agents/pi"), 404) == "agent_not_found"


def test_an_agent_that_is_silent_for_a_minute_is_offline_until_it_is_heard_again(
    plane: Membridge, database: FreshDatabase
) -> None:
    told(plane.post("/agents", {"name": "pi"}), 201)
    database.edit("update membridge.agents set last_seen = now() - interval '59 seconds'")
    assert told(plane.get("/agents"))[0]["status"] == "online"
    database.edit("update membridge.agents set last_seen = now() - interval '61 seconds'")
    assert told(plane.get("/agents"))[0]["status"] == "offline"
    told(plane.post("/agents/pi/commands"))
    assert told(plane.get("/agents"))[0]["status"] == "online"


def test_everything_survives_a_restart_and_is_the_same_in_every_replica(start_plane: StartPlane) -> None:
    first, second = start_plane(), start_plane()
    first.heartbeat("a", obs_count=3)
    first.heartbeat("b")
    first.select("b", 100)
    told(first.post("/agents", {"name": "m"}), 201)
    told(first.post("/sync/pull", {"project": "project", "agent": "m"}))
    cid = cid_of("project")
    paths = [
        "/projects",
        "/agents",
        "/jobs",
        "/audit",
        f"/projects/{cid}/nodes",
        f"/projects/{cid}/leadership",
        "/health",
    ]
    before = [told(first.get(path)) for path in paths]
    assert [told(second.get(path)) for path in paths] == before
    first.stop()
    third = start_plane()
    assert [told(third.get(path)) for path in paths] == before
