"""Sync jobs: fetched by the agent over its own connection, or brought to it where it has a URL."""

import time
from collections.abc import Generator
from typing import Any
from unittest.mock import patch

import pytest
from tests.membridge.called_agent import CalledAgent
from tests.membridge.conftest import StartPlane
from tests.real_membridge import KEY, Membridge
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import at_once, in_background, refused, told

from bloom.membridge.model import canonical_id_of
from bloom.membridge.service import jobs as job_service

CID = canonical_id_of("garden")
AGENT_KEY = "a key of the agents"


@pytest.fixture
def ready(plane: Membridge) -> Membridge:
    """A control plane with a project and an agent that polls."""
    return prepared(plane)


def prepared(plane: Membridge) -> Membridge:
    told(plane.post("/projects", {"name": "garden"}), 201)
    told(plane.post("/agents", {"name": "pi"}), 201)
    return plane


def order(plane: Membridge, action: str = "push", agent: str = "pi", **fields: Any) -> dict[str, Any]:
    return told(plane.post(f"/sync/{action}", {"project": "garden", "agent": agent, **fields}))


def take(plane: Membridge, wait_sec: float = 0, agent: str = "pi") -> list[dict[str, Any]]:
    return told(plane.post(f"/agents/{agent}/commands", {"wait_sec": wait_sec}))["jobs"]


def job_of(plane: Membridge, job_id: str) -> dict[str, Any]:
    return told(plane.get(f"/jobs/{job_id}"))


def test_a_job_is_fetched_once_shows_its_progress_and_ends_with_its_output(ready: Membridge) -> None:
    answer = order(ready, dryrun=True)
    job_id = answer.pop("job_id")
    assert answer.pop("detail")
    assert answer == {"ok": True, "project": "garden", "agent": "pi", "canonical_id": CID}
    queued = job_of(ready, job_id)
    assert (queued["status"], queued["action"], queued["dryrun"]) == ("queued", "push", True)
    assert queued["request_id"] and queued["finished_at"] is None
    assert abs(queued["created_at"] / 1000 - time.time()) < 60, "milliseconds"
    (command,) = take(ready)
    assert command == {
        "id": job_id,
        "action": "push",
        "project": "garden",
        "canonical_id": CID,
        "dryrun": True,
        "deadline_ms": queued["deadline_ms"],
    }
    assert take(ready) == [] and job_of(ready, job_id)["status"] == "running"
    path = f"/agents/pi/jobs/{job_id}/report"
    running = told(ready.post(path, {"status": "running", "progress": 0.5, "detail": "uploading"}))
    assert (running["status"], running["progress"], running["detail"]) == ("running", 0.5, "uploading")
    assert running["deadline_ms"] > queued["deadline_ms"]
    report = {"status": "failed", "returncode": 3, "stdout": "x" * 70_000 + "the end", "stderr": "no\0"}
    ended = told(ready.post(path, report))
    assert (ended["status"], ended["returncode"], ended["detail"]) == ("failed", 3, "uploading")
    assert ended["stdout"] == ("x" * 70_000 + "the end")[-65_536:] and ended["stderr"] == "no\N{REPLACEMENT CHARACTER}"
    assert ended["finished_at"] >= ended["created_at"]
    assert told(ready.post(path, report)) == ended, "the same end, told again"
    assert refused(ready.post(path, {"status": "done"}), 409) == "job_not_running"
    assert job_of(ready, job_id) == ended


@pytest.mark.parametrize("action", ["push", "pull"])
def test_a_project_that_is_listed_by_its_id_takes_jobs_by_that_name_and_by_its_own(
    ready: Membridge, action: str
) -> None:
    cid = canonical_id_of("meadow")
    ready.heartbeat("a", "meadow", project_id=None)
    for name in (cid, "meadow"):
        answer = told(ready.post(f"/sync/{action}", {"project": name, "agent": "pi"}))
        assert (answer["project"], answer["canonical_id"]) == (name, cid)
    assert len(told(ready.get("/jobs", project=cid))) == 2
    assert refused(ready.post(f"/sync/{action}", {"project": "0" * 16, "agent": "pi"}), 404) == "project_not_found"


def test_a_waiting_agent_hears_of_a_job_at_once_in_whichever_replica(start_plane: StartPlane) -> None:
    here, there = prepared(start_plane()), start_plane()
    here.until_listening()
    with patch.object(job_service, "LOOK_AGAIN_SEC", 60.0), in_background(lambda: take(here, 30)) as waiting:
        eventually(lambda: here.services.hub.subscriptions)
        job_id = order(there)["job_id"]
        assert [command["id"] for command in waiting.result(5)] == [job_id]


def test_a_waiting_agent_is_let_go_when_the_server_stops_and_its_job_is_not_lost(start_plane: StartPlane) -> None:
    here, there = prepared(start_plane()), start_plane()
    with in_background(lambda: take(here, 30)) as waiting:
        eventually(lambda: here.services.hub.subscriptions)
        here.leave()
        assert waiting.result(5) == []
    job_id = order(there)["job_id"]
    assert [command["id"] for command in take(there)] == [job_id]


def test_each_job_goes_to_one_of_many_polls(start_plane: StartPlane) -> None:
    planes = [prepared(start_plane()), start_plane()]
    ordered = {order(planes[0], action)["job_id"] for action in ("push", "pull") * 5}
    taken = at_once(6, lambda n: [command["id"] for command in take(planes[n % 2])])
    got = [job_id for some in taken for job_id in some]
    assert sorted(got) == sorted(ordered)


def test_jobs_are_handed_out_in_their_order_and_only_to_their_agent(ready: Membridge) -> None:
    told(ready.post("/agents", {"name": "other"}), 201)
    ordered = [order(ready, action)["job_id"] for action in ("push", "pull", "push")]
    assert take(ready, agent="other") == []
    assert [command["id"] for command in take(ready)] == ordered
    path = f"/agents/other/jobs/{ordered[0]}/report"
    assert refused(ready.post(path, {"status": "done"}), 404) == "job_not_found"


def test_a_job_that_was_not_handed_out_cannot_be_reported_on(ready: Membridge) -> None:
    job_id = order(ready)["job_id"]
    path = f"/agents/pi/jobs/{job_id}/report"
    assert refused(ready.post(path, {"status": "done"}), 409) == "job_not_running"
    assert job_of(ready, job_id)["status"] == "queued"


@pytest.mark.parametrize("taken", [False, True])
def test_a_job_times_out_at_its_deadline_and_is_not_handed_out_again(
    ready: Membridge, database: FreshDatabase, taken: bool
) -> None:
    job_id = order(ready)["job_id"]
    if taken:
        assert take(ready)
    assert ready.run(ready.services.jobs.time_out()) == 0
    database.edit("update membridge.jobs set deadline = now() - interval '1 second'")
    assert take(ready) == []
    assert ready.run(ready.services.jobs.time_out()) == 1
    ended = job_of(ready, job_id)
    assert ended["status"] == "timed_out" and ended["detail"] and ended["finished_at"]
    answer = ready.post(f"/agents/pi/jobs/{job_id}/report", {"status": "done"})
    assert refused(answer, 409) == "job_not_running" and answer.json()["status"] == "timed_out"
    assert take(ready) == []


def test_the_clock_of_every_replica_times_jobs_out(start_plane: StartPlane, database: FreshDatabase) -> None:
    plane = prepared(start_plane(maintenance=True, MEMBRIDGE_JOB_TIMEOUT_SEC="1"))
    job_id = order(plane)["job_id"]
    eventually(lambda: job_of(plane, job_id)["status"] == "timed_out", within_sec=15)


def test_the_unfinished_jobs_of_a_deleted_agent_fail(ready: Membridge) -> None:
    job_id = order(ready)["job_id"]
    assert ready.delete("/agents/pi").status_code == 204
    assert job_of(ready, job_id)["status"] == "failed"
    assert refused(ready.post("/agents/pi/commands"), 404) == "agent_not_found"


def test_jobs_are_listed_newest_first_by_project_and_up_to_a_limit(ready: Membridge) -> None:
    told(ready.post("/projects", {"name": "other"}), 201)
    ordered = [order(ready)["job_id"] for _ in range(3)]
    elsewhere = told(ready.post("/sync/pull", {"project": "other", "agent": "pi"}))["job_id"]
    assert [job["id"] for job in told(ready.get("/jobs"))] == [elsewhere, *reversed(ordered)]
    assert [job["id"] for job in told(ready.get("/jobs", project="garden", limit=2))] == ordered[:0:-1]
    assert told(ready.get("/jobs", project="nobody's")) == []
    for limit in (0, 201, "many"):
        assert refused(ready.get("/jobs", limit=limit), 400) == "invalid"
    assert refused(ready.get("/jobs/nothing"), 404) == "job_not_found"


def test_a_job_for_what_does_not_exist_or_cannot_be_reached_is_refused(
    ready: Membridge, database: FreshDatabase
) -> None:
    assert refused(ready.post("/sync/push", {"project": "no", "agent": "pi"}), 404) == "project_not_found"
    assert refused(ready.post("/sync/pull", {"project": "garden", "agent": "no"}), 404) == "agent_not_found"
    database.edit("update membridge.agents set last_seen = now() - interval '61 seconds'")
    assert refused(ready.post("/sync/push", {"project": "garden", "agent": "pi"}), 502) == "agent_offline"
    assert told(ready.get("/jobs")) == []


# --- Agents that are called ---------------------------------------------------------------------------------------------


@pytest.fixture
def agent() -> Generator[CalledAgent]:
    with CalledAgent().serving() as agent:
        yield agent


@pytest.fixture
def calling(start_plane: StartPlane, agent: CalledAgent) -> Membridge:
    """A control plane with a project and an agent that has a URL and never polls."""
    plane = start_plane(MEMBRIDGE_AGENT_KEY=AGENT_KEY)
    told(plane.post("/projects", {"name": "garden"}), 201)
    told(plane.post("/agents", {"name": "pi", "url": agent.url}), 201)
    return plane


def test_an_agent_with_a_url_is_called_with_its_own_key_and_never_with_the_admins(
    calling: Membridge, agent: CalledAgent
) -> None:
    answer = order(calling)
    assert (answer["ok"], answer["detail"]) == (True, "pushed")
    ((path, headers, body),) = agent.calls
    assert (path, body["project"], body["canonical_id"]) == ("/sync/push", "garden", CID)
    assert headers["x-membridge-agent"] == AGENT_KEY and KEY not in str(headers) + str(body)
    job = job_of(calling, answer["job_id"])
    assert (job["status"], job["stdout"], job["returncode"]) == ("done", "out", 0)


def test_what_an_agent_says_of_its_failure_is_passed_on(calling: Membridge, agent: CalledAgent) -> None:
    agent.answer = {"ok": False, "detail": "secondary\0", "returncode": 3}
    answer = order(calling, "pull")
    assert (answer["ok"], answer["detail"]) == (False, "secondary\N{REPLACEMENT CHARACTER}")
    assert job_of(calling, answer["job_id"])["status"] == "failed"


@pytest.mark.parametrize(
    ("status", "headers", "answer"),
    [
        (500, {}, {"ok": True}),
        (401, {}, {"detail": "no"}),
        (307, {"Location": "http://127.0.0.1:1/elsewhere"}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[1]"),
        (200, {}, b" " * (5 * 1024 * 1024 + 1)),
    ],
)
def test_an_agent_that_does_not_answer_as_one_is_a_502_and_its_job_failed(
    calling: Membridge, agent: CalledAgent, status: int, headers: dict[str, str], answer: Any
) -> None:
    agent.status, agent.headers, agent.answer = status, headers, answer
    refusal = calling.post("/sync/push", {"project": "garden", "agent": "pi"})
    assert refused(refusal, 502) == "agent_unreachable"
    assert agent.url not in refusal.text and AGENT_KEY not in refusal.text
    (job,) = told(calling.get("/jobs"))
    assert (job["id"], job["status"]) == (refusal.json()["job_id"], "failed") and len(agent.calls) == 1


def test_an_agent_that_is_not_there_is_a_502(calling: Membridge) -> None:
    told(calling.post("/agents", {"name": "pi", "url": "http://127.0.0.1:1"}), 200)
    refusal = calling.post("/sync/push", {"project": "garden", "agent": "pi"})
    assert refused(refusal, 502) == "agent_unreachable"
    assert "cannot be reached at its URL" in refusal.json()["error"]


def test_an_agent_that_takes_long_is_told_as_running_and_its_end_is_noted(
    calling: Membridge, agent: CalledAgent
) -> None:
    agent.may_answer.clear()
    with patch.object(job_service, "ANSWER_WITHIN_SEC", 0.05):
        answer = order(calling)
    assert answer["ok"] is True and job_of(calling, answer["job_id"])["status"] == "running"
    agent.may_answer.set()
    eventually(lambda: job_of(calling, answer["job_id"])["status"] == "done")


def test_an_agent_that_polls_is_not_called(calling: Membridge, agent: CalledAgent) -> None:
    assert take(calling) == []
    job_id = order(calling)["job_id"]
    assert agent.calls == [] and [command["id"] for command in take(calling)] == [job_id]
