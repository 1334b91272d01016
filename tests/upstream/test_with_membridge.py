"""The runtime and the real control plane, on one database."""

from collections.abc import Generator

import httpx
import pytest
from tests.real_membridge import KEY, Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, refused, told

from bloom.membridge.model import canonical_id_of


@pytest.fixture
def control_plane(database: FreshDatabase) -> Generator[Membridge]:
    service = Membridge(database.url)
    yield service
    service.stop()


@pytest.fixture
def runtime(start_replica: StartReplica, control_plane: Membridge) -> Replica:
    return start_replica(MEMBRIDGE_SERVER_URL=control_plane.url, MEMBRIDGE_ADMIN_KEY=KEY)


def proxied(runtime: Replica, path: str) -> httpx.Response:
    return runtime.http.get(f"{runtime.url}/api/membridge{path}")


def test_an_agent_of_the_control_plane_takes_tasks_of_the_runtime(runtime: Replica, control_plane: Membridge) -> None:
    told(control_plane.post("/agents", {"name": "pi", "capabilities": {"max_concurrency": 2, "labels": ["arm"]}}), 201)
    runtime.run(runtime.services.worker_sync.step())
    found = told(runtime.get("/workers/pi"))
    assert (found["status"], found["capabilities"]["max_concurrency"]) == ("online", 2)
    assert runtime.lease(runtime.create(labels=["arm"])["id"])["worker_id"] == "pi"


def test_leadership_is_seen_and_changed_through_the_runtime(runtime: Replica, control_plane: Membridge) -> None:
    told(control_plane.post("/projects", {"name": "project"}), 201)
    cid = canonical_id_of("project")
    for node in ("one", "two"):
        control_plane.heartbeat(node)
    assert [project["canonical_id"] for project in told(proxied(runtime, "/projects"))] == [cid]
    assert {node["node_id"] for node in told(proxied(runtime, f"/projects/{cid}/nodes"))} == {"one", "two"}
    select = f"{runtime.url}/api/membridge/projects/{cid}/leadership/select"
    assert told(runtime.http.post(select, json={"primary_node_id": "two"}))["ok"] is True
    assert told(proxied(runtime, f"/projects/{cid}/leadership"))["preferred_primary"] == "two"
    refused(runtime.http.post(select, json={"primary_node_id": "nobody"}), 404)
    assert told(runtime.post("/test-connection"))["health"]["service"] == "membridge-control-plane"


def test_a_wrong_key_is_told(start_replica: StartReplica, control_plane: Membridge) -> None:
    runtime = start_replica(MEMBRIDGE_SERVER_URL=control_plane.url, MEMBRIDGE_ADMIN_KEY="not the key")
    assert refused(proxied(runtime, "/projects"), 401) == "membridge_unauthorized"
    assert told(proxied(runtime, "/health"))["status"] == "ok"
    assert "refuses the admin key" in told(runtime.get("/health"))["membridge"]["lastError"]
    assert told(runtime.post("/test-connection"))["connected"] is False
