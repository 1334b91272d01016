"""Workers: when they count as offline, draining, removing."""

import pytest
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Api, Replica, StartReplica, in_background, refused, told
from tests.runtime.invariants import check_invariants

from bloom.server import maintenance


def status(runtime: Api, worker_id: str = "worker") -> str:
    return told(runtime.get(f"/workers/{worker_id}"))["status"]


def silence(database: FreshDatabase, seconds: int, worker_id: str = "worker") -> None:
    """Let the worker not have been heard from for so long."""
    assert database.edit(
        """update bloom.workers set last_heartbeat = now() - make_interval(secs => %(sec)s),
                  polling_until = polling_until - make_interval(secs => %(sec)s) where id = %(id)s""",
        sec=seconds,
        id=worker_id,
    )


def mark_silent(runtime: Replica) -> list[str]:
    return [str(worker_id) for worker_id in runtime.run(runtime.services.holding.mark_silent_workers())]


def test_a_worker_that_claims_is_offline_after_a_minute_of_silence(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    runtime.claim("worker", "r1")
    silence(database, 55)
    assert mark_silent(runtime) == [] and status(runtime) == "online"
    silence(database, 61)
    assert mark_silent(runtime) == ["worker"] and status(runtime) == "offline"
    assert mark_silent(runtime) == []
    task = runtime.create()
    assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease"), 503) == "no_free_worker"
    assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease", {"worker_id": "worker"}), 503) == "worker_not_free"


def test_the_server_marks_silent_workers_by_itself(
    start_replica: StartReplica, database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "MARK_SILENT_EVERY_SEC", 0.1)
    runtime = start_replica(maintenance=True)
    runtime.register()
    runtime.claim("worker", "r1")
    silence(database, 61)
    eventually(lambda: status(runtime) == "offline", within_sec=15)


def test_a_worker_that_never_claimed_keeps_its_status_in_silence(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    runtime.register("syncs", status="syncing")
    silence(database, 100_000)
    silence(database, 100_000, "syncs")
    assert mark_silent(runtime) == []
    assert (status(runtime), status(runtime, "syncs")) == ("online", "syncing")


def test_a_worker_that_never_claimed_is_offline_once_its_lease_expired(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register("quiet")
    runtime.register("speaks")
    for name in ("quiet", "speaks"):
        _, lease = runtime.leased(name, context_id=name)
        database.expire(lease["id"])
    silence(database, 10, "quiet")
    assert len(runtime.reap()) == 2
    # The other one was heard from since its lease ended: it registered.
    assert (status(runtime, "quiet"), status(runtime, "speaks")) == ("offline", "online")


@pytest.mark.parametrize("call", ["register", "claim", "extend", "events", "complete", "complete batch", "heartbeat"])
def test_a_worker_is_online_as_soon_as_it_is_heard_from(runtime: Replica, database: FreshDatabase, call: str) -> None:
    for was in ("offline", "unknown"):
        _is_online_once_heard_from(runtime, database, call, was)


def _is_online_once_heard_from(runtime: Replica, database: FreshDatabase, call: str, was: str) -> None:
    runtime.register(was)
    task, lease = runtime.leased(was)
    silence(database, 1000, was)
    database.edit("update bloom.workers set status = %(was)s where id = %(was)s", was=was)
    report = {"task_id": task["id"], "lease_id": lease["id"], "status": "error", "metrics": {"duration_ms": 1}}
    answers = {
        "register": lambda: runtime.post("/workers", {"name": was}),
        "claim": lambda: runtime.post(f"/workers/{was}/claim", {"request_id": "r"}),
        "extend": lambda: runtime.post(f"/workers/{was}/extend", {"leases": []}),
        "events": lambda: runtime.post(
            f"/llm-tasks/{task['id']}/events", {"lease_id": lease["id"], "events": [{"seq": 1, "type": "t"}]}
        ),
        "complete": lambda: runtime.complete(task["id"]),
        "complete batch": lambda: runtime.post(f"/workers/{was}/complete", {"completions": [report]}),
        "heartbeat": lambda: runtime.heartbeat(task["id"]),
    }
    told(answers[call]())
    assert status(runtime, was) == "online"
    assert database.value(
        "select now() - last_heartbeat < interval '1 minute' from bloom.workers where id = %(was)s", was=was
    )


def test_a_heartbeat_of_a_lease_that_is_not_held_is_no_sign_of_life(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task, lease = runtime.leased()
    database.expire(lease["id"])
    database.edit("update bloom.workers set status = 'offline'")
    assert refused(runtime.heartbeat(task["id"]), 409) == "lease_lost"
    assert status(runtime) == "offline"


@pytest.mark.parametrize("given", ["syncing", "error"])
def test_a_status_that_a_worker_gave_itself_stays_when_it_is_heard_from(runtime: Replica, given: str) -> None:
    runtime.register(status=given)
    runtime.create()
    assert runtime.claim("worker", "r") == []
    assert status(runtime) == given
    runtime.register()
    assert status(runtime) == given
    runtime.register(status="online")
    assert len(runtime.claim("worker", "r2")) == 1


def test_a_draining_worker_gets_nothing_new_and_ends_what_it_has(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=4)
    held, lease = runtime.leased()
    assert told(runtime.post("/workers/worker/drain"))["draining"] is True
    task = runtime.create()
    assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease"), 503) == "no_free_worker"
    assert refused(runtime.post(f"/llm-tasks/{task['id']}/lease", {"worker_id": "worker"}), 503) == "worker_not_free"
    assert runtime.claim("worker", "r1") == []
    told(runtime.heartbeat(held["id"]))
    told(runtime.complete(held["id"], lease["id"]))
    assert told(runtime.post("/workers/worker/drain"))["draining"] is True
    assert told(runtime.post("/workers/worker/resume"))["draining"] is False
    assert len(runtime.claim("worker", "r2")) == 1
    entries = told(runtime.get("/audit"))
    actions = [entry["action"] for entry in entries if entry["entity_id"] == "worker"]
    assert actions == ["worker_resumed", "worker_drained", "worker_registered"]
    check_invariants(database)


def test_registering_again_does_not_end_a_drain(runtime: Replica) -> None:
    runtime.register()
    told(runtime.post("/workers/worker/drain"))
    told(runtime.post("/workers", {"name": "worker", "status": "online"}))
    assert told(runtime.get("/workers/worker"))["draining"] is True


def test_a_removed_workers_tasks_go_back_to_the_queue_and_lose_no_attempt(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register(slots=3)
    leased, lease = runtime.leased(max_attempts=1)
    running, _ = runtime.leased(max_attempts=1)
    told(runtime.heartbeat(running["id"]))
    done, _ = runtime.leased()
    told(runtime.complete(done["id"]))
    assert told(runtime.delete("/workers/worker")) == {"removed": True, "id": "worker"}
    assert told(runtime.get("/workers")) == []
    for task in (leased, running):
        back = runtime.task(task["id"])
        assert (back["status"], back["attempts"], back["lease_id"], back["worker_id"]) == ("queued", 0, None, None)
    assert runtime.task(done["id"])["status"] == "completed"
    assert told(runtime.get("/leases", status="active")) == []
    assert runtime.audit("worker")[-1] == ("worker_removed", "local")
    assert refused(runtime.complete(leased["id"], lease["id"]), 409) == "lease_lost"
    assert refused(runtime.delete("/workers/worker"), 404) == "worker_not_found"
    runtime.register("next", slots=2)
    assert len(runtime.claim("next", "r", slots=2)) == 2
    check_invariants(database)


def test_a_worker_of_the_same_name_starts_anew_after_a_removal(runtime: Replica) -> None:
    runtime.register(slots=7, agent_version="1")
    told(runtime.delete("/workers/worker"))
    again = told(runtime.post("/workers", {"name": "worker"}), 201)
    assert again["capabilities"]["max_concurrency"] == 1 and again["agent_version"] is None


def test_a_worker_whose_slots_were_lowered_gets_nothing_until_it_is_below(runtime: Replica) -> None:
    runtime.register(slots=3)
    held = [runtime.leased(context_id=str(n))[0] for n in range(3)]
    runtime.register(slots=1)
    runtime.create()
    assert runtime.claim("worker", "r1", slots=3) == []
    told(runtime.complete(held[0]["id"]))
    told(runtime.complete(held[1]["id"]))
    assert runtime.claim("worker", "r2", slots=3) == []
    told(runtime.complete(held[2]["id"]))
    assert len(runtime.claim("worker", "r3", slots=3)) == 1


def test_the_answer_to_a_committed_completion_does_not_wait_for_notes_about_the_worker(
    runtime: Replica, database: FreshDatabase
) -> None:
    """The connection that notes the sign of life dies: what was committed before is answered all the same."""
    runtime.register()
    task, lease = runtime.leased()
    silence(database, 30)
    with (
        database.connect(autocommit=False) as locking,
        in_background(lambda: runtime.complete(task["id"], lease["id"], hand_back=True)) as answer,
    ):
        locking.execute("select from bloom.workers for update")
        database.wait_until_blocked()
        database.rows("""select pg_terminate_backend(pid) from pg_stat_activity
                         where datname = current_database() and wait_event_type = 'Lock'""")  # fmt: skip
        assert told(answer.result(5))["task"]["status"] == "queued"
    check_invariants(database)


@pytest.mark.parametrize("name", ["a/b", "../../etc", ".", ".."])
def test_a_name_that_no_path_could_hold_is_refused(quiet_runtime: Replica, name: str) -> None:
    assert refused(quiet_runtime.post("/workers", {"name": name}), 400) == "invalid"
    assert told(quiet_runtime.get("/workers")) == []
