"""One task's whole way by the routes that clients in the field use, with nothing but an HTTP client."""

import hashlib
import time
from typing import Any
from unittest.mock import ANY

import httpx
import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import API, Replica, StartReplica, told
from tests.runtime.invariants import check_invariants

MINUTE_MS = 60_000


def just_now(moment: Any) -> bool:
    """Whether `moment` is integer milliseconds of about now."""
    return type(moment) is int and abs(moment - time.time() * 1000) < MINUTE_MS


def shown(thing: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether `thing` has the expected fields; more may be added at any time."""
    assert {name: thing.get(name, "(missing)") for name in expected} == expected
    return True


def test_a_task_goes_from_creation_to_its_artifact(runtime: Replica, database: FreshDatabase) -> None:
    base = runtime.url + API
    with httpx.Client(trust_env=False, verify=False) as http:  # noqa: S501 (plain HTTP)
        worker = told(http.post(f"{base}/workers", json={"name": "vps-1"}), 201)
        assert shown(
            worker,
            {
                "id": "vps-1",
                "node_id": "vps-1",
                "url": None,
                "status": "online",
                "capabilities": {"claude_cli": True, "max_concurrency": 1, "labels": []},
                "last_heartbeat": ANY,
                "ip_addrs": [],
                "obs_count": None,
                "db_sha": None,
                "registered_at": ANY,
                "active_leases": 0,
                "agent_version": None,
                "os_info": None,
                "install_method": None,
                "draining": False,
            },
        )
        assert just_now(worker["last_heartbeat"]) and just_now(worker["registered_at"])

        body = {"context_id": "project", "agent_slug": "writer", "prompt": "Write a line."}
        task = told(http.post(f"{base}/llm-tasks", json=body), 201)
        expected: dict[str, Any] = {
            **body,
            "id": ANY,
            "context_hints": [],
            "policy": {"timeout_sec": 120, "budget": 0},
            "desired_format": "text",
            "status": "queued",
            "created_at": ANY,
            "updated_at": ANY,
            "lease_id": None,
            "worker_id": None,
            "attempts": 0,
            "max_attempts": 3,
            "priority": 0,
            "run_at": None,
            "labels": [],
            "concurrency_key": None,
            "retry": {"base_sec": 2, "max_sec": 300},
            "cancel_requested": False,
        }
        assert shown(task, expected)
        assert isinstance(task["id"], str) and just_now(task["created_at"]) and task["updated_at"] == task["created_at"]
        assert told(http.get(f"{base}/llm-tasks/{task['id']}")) == task
        of_task = f"{base}/llm-tasks/{task['id']}"

        granted = told(http.post(f"{of_task}/lease"), 201)
        lease = granted["lease"]
        assert shown(
            lease,
            {
                "id": ANY,
                "task_id": task["id"],
                "worker_id": "vps-1",
                "started_at": ANY,
                "expires_at": lease["started_at"] + 300_000,
                "ttl_seconds": 300,
                "status": "active",
                "last_heartbeat": None,
                "context_id": "project",
            },
        )
        assert just_now(lease["started_at"])
        assert granted["worker"] == {**worker, "active_leases": 1}
        held = told(http.get(of_task))
        assert held == {
            **task,
            "status": "leased",
            "lease_id": lease["id"],
            "worker_id": "vps-1",
            "attempts": 1,
            "updated_at": ANY,
        }

        beaten = told(http.post(f"{of_task}/heartbeat", json={}))
        assert beaten["expires_at"] == beaten["lease"]["expires_at"] == beaten["lease"]["last_heartbeat"] + 300_000
        assert beaten["lease"] == {**lease, "last_heartbeat": ANY, "expires_at": ANY}
        assert told(http.get(of_task))["status"] == "running"
        assert told(http.get(f"{base}/workers/vps-1")) == {
            **worker,
            "active_leases": 1,
            "last_heartbeat": ANY,
            "leases": [beaten["lease"]],
        }

        report = {"status": "success", "output": "A line.", "metrics": {"duration_ms": 1500, "tokens_used": None}}
        done = told(http.post(f"{of_task}/complete", json=report))
        assert done["task"] == {**held, "status": "completed", "updated_at": ANY}
        artifact = done["artifact"]
        assert shown(
            artifact,
            {
                "id": ANY,
                "task_id": task["id"],
                "job_id": task["id"],
                "type": "LLM_RESULT",
                "created_at": ANY,
                "finalized": True,
                "url": None,
                "entity_refs": [],
                "tags": [],
                "content": "A line.",
                "content_type": "text/plain; charset=utf-8",
                "size_bytes": 7,
                "sha256": hashlib.sha256(b"A line.").hexdigest(),
            },
        )
        assert just_now(artifact["created_at"])
        assert shown(
            done["result"],
            {
                "id": ANY,
                "task_id": task["id"],
                "worker_id": "vps-1",
                "lease_id": lease["id"],
                "artifact_id": artifact["id"],
                "status": "success",
                "output": "A line.",
                "error_message": None,
                "code": None,
                "metrics": {"duration_ms": 1500, "tokens_used": None},
                "completed_at": artifact["created_at"],
            },
        )
        assert told(http.get(f"{base}/artifacts", params={"task_id": task["id"]})) == [artifact]
        assert told(http.get(f"{base}/artifacts/{artifact['id']}")) == artifact
        assert http.get(f"{base}/artifacts/{artifact['id']}/content").text == "A line."
        assert told(http.get(f"{of_task}/results")) == [done["result"]]
        assert told(http.get(f"{base}/runs")) == told(http.get(f"{base}/llm-tasks")) == [done["task"]]
        (ended,) = told(http.get(f"{base}/leases"))
        assert ended == {**beaten["lease"], "status": "released"}
        assert told(http.get(f"{base}/workers/vps-1"))["leases"] == []
        assert told(http.get(f"{base}/stats")) == {
            "tasks": {
                "total": 1,
                "by_status": {
                    **dict.fromkeys(("queued", "leased", "running", "failed", "dead", "cancelled"), 0),
                    "completed": 1,
                },
            },
            "leases": {"total": 1, "active": 0},
            "workers": {"total": 1, "online": 1},
        }
    check_invariants(database)


def test_the_audit_log_tells_who_did_what_newest_first(start_replica: StartReplica) -> None:
    runtime = start_replica(RUNTIME_API_KEY="the key of the admin")
    runtime.register("vps-1")
    task, lease = runtime.leased("vps-1")
    told(runtime.complete(task["id"]))
    told(runtime.post("/workers", {"name": "vps-1", "agent_version": "2"}))
    entries = told(runtime.get("/audit"))
    assert [(e["action"], e["entity_type"], e["entity_id"], e["actor"]) for e in entries] == [
        ("worker_updated", "worker", "vps-1", "admin"),
        ("task_completed", "task", task["id"], "worker:vps-1"),
        ("task_leased", "task", task["id"], "admin"),
        ("task_created", "task", task["id"], "admin"),
        ("worker_registered", "worker", "vps-1", "admin"),
    ]
    assert all(set(e) == {"id", "timestamp", "action", "entity_type", "entity_id", "actor", "detail"} for e in entries)
    assert all(isinstance(e["id"], str) and just_now(e["timestamp"]) for e in entries)
    completed = entries[1]["detail"]
    assert completed["lease_id"] == lease["id"] and completed["status"] == "completed"


def test_what_a_worker_claims_it_did_itself(runtime: Replica) -> None:
    runtime.register("pi")
    task = runtime.create()
    (granted,) = runtime.claim("pi", "first")
    assert granted["task"]["id"] == task["id"]
    assert granted["lease"]["worker_id"] == granted["task"]["worker_id"] == "pi"
    body = {"completions": [{"task_id": task["id"], "lease_id": granted["lease"]["id"], "status": "error",
                             "error_message": "no", "metrics": {"duration_ms": 3}}]}  # fmt: skip
    assert told(runtime.post("/workers/pi/complete", body))["completions"] == [
        {"task_id": task["id"], "lease_id": granted["lease"]["id"], "outcome": "ok", "task_status": "failed"}
    ]
    told(runtime.post(f"/llm-tasks/{task['id']}/requeue"))
    assert runtime.audit(task["id"]) == [
        ("task_created", "local"),
        ("task_leased", "worker:pi"),
        ("task_completed", "worker:pi"),
        ("task_requeued", "local"),
    ]


def test_every_field_of_a_task_is_kept(runtime: Replica) -> None:
    given: dict[str, Any] = {
        "context_id": "проект/1",
        "agent_slug": "writer",
        "prompt": "Grüße 🌱\n\ttab \\ \"quote\" 'single' %s {} \u2028 end",
        "context_hints": ["one", "", "три"],
        "policy": {"timeout_sec": 3600, "budget": 1.25},
        "desired_format": "json",
        "max_attempts": 10,
        "priority": -7,
        "run_at": 253_402_300_799_999,
        "labels": ["gpu", "a,b", '{"x"}', "NULL"],
        "concurrency_key": "one at a time",
        "retry": {"base_sec": 0.5, "max_sec": 86_400},
    }
    task = runtime.create(**given, unknown_field="is ignored")
    assert {name: task[name] for name in given} == given
    assert runtime.task(task["id"]) == task


def test_every_field_of_a_worker_is_kept_and_what_an_update_leaves_out_stays(runtime: Replica) -> None:
    given: dict[str, Any] = {
        "name": "laptop of José",
        "url": "http://192.0.2.1:9000",
        "status": "syncing",
        "capabilities": {"claude_cli": False, "max_concurrency": 32, "labels": ["gpu"]},
        "ip_addrs": ["192.0.2.1", "2001:db8::1"],
        "agent_version": "1.2",
        "os_info": "Debian 12",
        "install_method": "docker",
    }
    worker = told(runtime.post("/workers", given), 201)
    assert {name: worker[name] for name in given if name != "name"} == {k: v for k, v in given.items() if k != "name"}
    updated = told(runtime.post("/workers", {"name": given["name"], "capabilities": {"max_concurrency": 2}}), 200)
    assert updated == {
        **worker,
        "capabilities": {"claude_cli": False, "max_concurrency": 2, "labels": ["gpu"]},
        "last_heartbeat": ANY,
    }
    assert told(runtime.get("/workers")) == [updated]
    assert [e["action"] for e in told(runtime.get("/audit"))] == ["worker_updated", "worker_registered"]


def test_an_error_completion_fails_the_task_and_makes_no_artifact(runtime: Replica) -> None:
    runtime.register()
    task, _ = runtime.leased()
    done = told(runtime.fail(task["id"], output="half", error_message="broke", code="bad_exit"))
    assert done["task"]["status"] == "failed" and done["artifact"] is None
    result = done["result"]
    assert (result["status"], result["output"], result["error_message"], result["code"], result["artifact_id"]) == (
        "error", "half", "broke", "bad_exit", None
    )  # fmt: skip
    assert told(runtime.get("/artifacts")) == []
    (lease,) = told(runtime.get("/leases", status="failed"))
    assert lease["task_id"] == task["id"]


def test_an_artifact_keeps_type_tags_format_and_metrics(runtime: Replica) -> None:
    runtime.register()
    task, _ = runtime.leased(desired_format="json")
    metrics: dict[str, Any] = {
        "duration_ms": 0,
        "tokens_used": 7,
        "cost_usd": 0.5,
        "model": "small",
        "nested": {"a": [1, None]},
    }
    body: dict[str, Any] = {
        "output": '{"a": 1}',
        "artifact_type": "REPORT",
        "artifact_tags": ["x", "y z"],
        "metrics": metrics,
    }
    done = told(runtime.complete(task["id"], **body))
    assert done["artifact"]["type"] == "REPORT" and done["artifact"]["tags"] == ["x", "y z"]
    assert done["artifact"]["content_type"] == "application/json"
    assert done["result"]["metrics"] == metrics


@pytest.mark.parametrize("output", [None, ""])
def test_a_success_without_output_makes_an_empty_artifact(runtime: Replica, output: str | None) -> None:
    runtime.register()
    task, _ = runtime.leased()
    done = told(runtime.complete(task["id"], output=output))
    assert done["artifact"]["size_bytes"] == 0 and done["artifact"]["content"] == ""
    assert runtime.get(f"/artifacts/{done['artifact']['id']}/content").content == b""


def test_repeating_a_completion_of_a_named_lease_answers_with_the_first_outcome(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register()
    task, lease = runtime.leased()
    first = told(runtime.complete(task["id"], lease["id"]))
    before = database.dump()
    assert told(runtime.complete(task["id"], lease["id"])) == first
    other = runtime.complete(task["id"], lease["id"], output="Another one.")
    assert (other.status_code, other.json()["code"]) == (409, "already_completed")
    unnamed = runtime.complete(task["id"])
    assert (unnamed.status_code, unnamed.json()["code"]) == (409, "not_leased")
    assert database.dump() == before
    check_invariants(database)
