"""Workers that Membridge knows: they appear, follow its list, go offline, and leave those that registered here alone."""

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import membridge_stub as act
import pytest
from membridge_stub import Stub, agent
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, told

from bloom.upstream import client, health
from bloom.upstream.agents import MOST_AGENTS, read_agents
from bloom.upstream.model import Saved


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    monkeypatch.setattr(client, "FIRST_PAUSE_SEC", 0.0)


@pytest.fixture
def sync(connected: Replica, database: FreshDatabase) -> Callable[[], float]:
    """Lets the runtime sync now; the seconds until it does so again."""

    def now() -> float:
        database.edit("update bloom.membridge_connection set next_sync_at = now()")
        return connected.run(connected.services.worker_sync.step())

    return now


def workers(runtime: Replica) -> dict[str, dict[str, Any]]:
    return {worker["id"]: worker for worker in told(runtime.get("/workers"))}


def mark_silent(runtime: Replica) -> list[str]:
    return [str(worker_id) for worker_id in runtime.run(runtime.services.holding.mark_silent_workers())]


def later(database: FreshDatabase, seconds: int) -> None:
    """Let so many seconds have passed."""
    database.edit(
        "update bloom.workers set last_heartbeat = last_heartbeat - make_interval(secs => %(sec)s)", sec=seconds
    )


def test_an_agent_of_membridge_becomes_a_worker_that_takes_tasks(
    connected: Replica, membridge: Stub, sync: Callable[[], float]
) -> None:
    capabilities = {"claude_cli": True, "max_concurrency": 3, "labels": ["gpu"]}
    membridge.agents = [agent("pi", url="http://pi:9", capabilities=capabilities, last_seen=time.time())]
    assert 0 < sync() <= 9
    found = workers(connected)["pi"]
    assert (found["status"], found["capabilities"], found["url"]) == ("online", capabilities, "http://pi:9")
    task = connected.create(labels=["gpu"])
    assert connected.lease(task["id"])["worker_id"] == "pi"
    (entry,) = [entry for entry in told(connected.get("/audit")) if entry["entity_id"] == "pi"]
    assert (entry["action"], entry["actor"]) == ("worker_registered", "system:membridge")


def test_the_list_may_stand_in_an_object_and_say_little(
    connected: Replica, membridge: Stub, sync: Callable[[], float]
) -> None:
    membridge.behave("/agents", act.says({"agents": [{"name": "pi"}]}))
    sync()
    found = workers(connected)["pi"]
    assert found["status"] == "online" and found["capabilities"]["max_concurrency"] == 1


def test_a_worker_follows_the_list_and_what_it_leaves_out_is_kept(
    connected: Replica, membridge: Stub, sync: Callable[[], float]
) -> None:
    membridge.agents = [agent("pi", url="http://pi:9", capabilities={"labels": ["gpu"], "max_concurrency": 2})]
    sync()
    membridge.agents = [agent("pi", url=None, capabilities={"max_concurrency": 5})]
    sync()
    sync()
    found = workers(connected)["pi"]
    assert (found["capabilities"]["max_concurrency"], found["capabilities"]["labels"]) == (5, ["gpu"])
    assert found["url"] == "http://pi:9"
    actions = [entry["action"] for entry in told(connected.get("/audit")) if entry["entity_id"] == "pi"]
    assert actions == ["worker_updated", "worker_registered"]
    for said, is_now in (("syncing", "syncing"), ("error", "error"), ("busy?", "online"), ("offline", "offline")):
        membridge.agents = [agent("pi", status=said)]
        sync()
        assert workers(connected)["pi"]["status"] == is_now


def test_an_agent_that_is_not_seen_any_more_goes_offline_and_comes_back(
    connected: Replica, membridge: Stub, database: FreshDatabase, sync: Callable[[], float]
) -> None:
    membridge.agents = [agent("pi", last_seen=time.time()), agent("old", last_seen=time.time() - 61)]
    sync()
    assert (workers(connected)["pi"]["status"], workers(connected)["old"]["status"]) == ("online", "offline")
    membridge.agents = []
    sync()
    later(database, 55)
    assert mark_silent(connected) == []
    later(database, 10)
    assert mark_silent(connected) == ["pi"]
    membridge.agents = [agent("pi", last_seen=time.time() - 61)]
    sync()
    assert workers(connected)["pi"]["status"] == "offline"
    membridge.agents = [agent("pi", last_seen=time.time() - 5)]
    sync()
    assert workers(connected)["pi"]["status"] == "online" and mark_silent(connected) == []


def test_ages_are_those_of_the_clock_of_membridge(
    connected: Replica, membridge: Stub, sync: Callable[[], float]
) -> None:
    """Its clock may be years off, as long as its `last_seen` and its Date agree."""
    off = time.time() - 3 * 365 * 86_400
    entries = [agent("seen", last_seen=off - 3), agent("not-seen", last_seen=off - 100), agent("ahead", last_seen=2e12)]
    membridge.behave("/agents", act.says(entries, Date=formatdate(off, usegmt=True)))
    sync()
    found = {name: worker["status"] for name, worker in workers(connected).items()}
    assert found == {"seen": "online", "not-seen": "offline"}


def test_a_worker_that_registered_here_is_not_changed_only_heard_from(
    connected: Replica, membridge: Stub, database: FreshDatabase, sync: Callable[[], float]
) -> None:
    here: dict[str, Any] = {"url": "http://here:1", "capabilities": {"max_concurrency": 4, "labels": ["here"]}}
    for name, status in (("here", "online"), ("busy", "syncing"), ("away", "offline")):
        connected.register(name, status=status, **here)
    before = workers(connected)
    later(database, 100)
    there = {"url": "http://evil:2", "capabilities": {"max_concurrency": 32, "labels": ["evil"], "claude_cli": False}}
    membridge.agents = [agent(name, **there, last_seen=time.time()) for name in ("here", "busy", "away")]
    sync()
    for name, worker in workers(connected).items():
        assert {**worker, "last_heartbeat": 0, "status": ""} == {**before[name], "last_heartbeat": 0, "status": ""}
        assert worker["last_heartbeat"] > before[name]["last_heartbeat"] - 50_000
    assert [worker["status"] for worker in workers(connected).values()] == ["online", "syncing", "online"]
    membridge.agents = [agent("here", status="offline")]
    sync()
    later(database, 10_000)
    # It never claimed: it keeps the status that it was given.
    assert mark_silent(connected) == [] and workers(connected)["here"]["status"] == "online"


def test_an_agent_that_registers_here_is_a_worker_of_here_from_then_on(
    connected: Replica, membridge: Stub, database: FreshDatabase, sync: Callable[[], float]
) -> None:
    membridge.agents = [agent("pi", capabilities={"max_concurrency": 2})]
    sync()
    connected.register("pi", slots=7)
    sync()
    later(database, 10_000)
    assert mark_silent(connected) == []
    found = workers(connected)["pi"]
    assert (found["capabilities"]["max_concurrency"], found["status"]) == (7, "online")


def test_entries_of_no_use_are_skipped_and_told_once(
    connected: Replica, membridge: Stub, sync: Callable[[], float], caplog: pytest.LogCaptureFixture
) -> None:
    bad: list[Any] = [
        None, 7, "pi", [], {}, {"name": None}, {"name": 7}, {"name": ""}, {"name": "a/b"}, {"name": ".."},
        {"name": "x" * 129}, {"name": "nul\0"}, agent("good", url="again"), agent("a", url=7), agent("b", url="x" * 5000),
        agent("c", capabilities="all"), agent("d", capabilities={"max_concurrency": 1000}),
        agent("e", capabilities={"labels": [""]}), agent("f", last_seen="now"), agent("g", last_seen=True),
        agent("h", last_seen=1e308), agent("i", url="javascript:1"),
    ]  # fmt: skip
    membridge.agents = [agent("good"), *bad, agent("also-good", capabilities=None, last_seen=None)]
    for _ in range(3):
        sync()
    assert set(workers(connected)) == {"good", "also-good"}
    told_of = [record for record in caplog.records if record.name == "bloom.upstream.syncing"]
    assert [getattr(record, "skipped", None) for record in told_of] == [len(bad)]


def test_a_list_is_read_up_to_a_thousand_agents() -> None:
    found = read_agents([agent(f"agent-{n}") for n in range(MOST_AGENTS + 5)], now=0)
    assert found is not None and (len(found[0]), found[1]) == (MOST_AGENTS, 5)
    assert read_agents({"agents": {"name": "pi"}}, now=0) is None and read_agents("pi", now=0) is None


def test_replicas_share_one_sync_and_what_it_found(
    start_replica: StartReplica, membridge: Stub, database: FreshDatabase
) -> None:
    replicas = [start_replica(MEMBRIDGE_SERVER_URL=membridge.url) for _ in range(3)]
    waits = [replica.run(replica.services.worker_sync.step()) for replica in replicas]
    assert membridge.paths() == ["/agents"] and all(0 < wait <= 9 for wait in waits)
    assert [told(r.get("/health"))["membridge"]["connected"] for r in replicas] == [True] * 3
    membridge.behave("*", act.raw(b"<html>"))
    database.edit("update bloom.membridge_connection set next_sync_at = now()")
    for replica in reversed(replicas):
        replica.run(replica.services.worker_sync.step())
    assert membridge.paths() == ["/agents"] * 2
    states = [told(r.get("/health"))["membridge"] for r in replicas]
    assert [(s["consecutiveFailures"], s["connected"]) for s in states] == [(1, False)] * 3
    assert len({s["lastError"] for s in states}) == 1 and all(s["lastSuccess"] for s in states)


def test_a_replica_that_cannot_read_the_key_leaves_the_sync_to_the_others(
    start_replica: StartReplica, membridge: Stub
) -> None:
    able, unable = start_replica(BLOOM_SECRET_KEY="one"), start_replica(BLOOM_SECRET_KEY="two")
    told(able.post("/config", {"membridge_server_url": membridge.url, "admin_key": "the key of Membridge"}))
    for replica in (unable, able, unable):
        replica.run(replica.services.worker_sync.step())
    assert [seen.key for seen in membridge.seen] == ["the key of Membridge"]
    states = [told(replica.get("/health"))["membridge"] for replica in (able, unable)]
    assert [found["connected"] for found in states] == [True, False]
    assert "Enter the key again" in states[1]["lastError"]


def test_a_clock_that_went_back_stops_no_sync(membridge: Stub, connected: Replica, database: FreshDatabase) -> None:
    database.edit("update bloom.membridge_connection set next_sync_at = now() + interval '1 day'")
    assert connected.run(connected.services.worker_sync.step()) <= 9
    assert membridge.paths() == ["/agents"]


def test_the_server_syncs_by_itself(start_replica: StartReplica, membridge: Stub) -> None:
    membridge.agents = [agent("pi")]
    runtime = start_replica(maintenance=True, MEMBRIDGE_SERVER_URL=membridge.url)
    eventually(lambda: "pi" in workers(runtime), what="the worker", within_sec=10)


BROKEN: dict[str, act.Act] = {
    "closes": act.closes,
    "garbage": act.raw(b"<html>It works!</html>"),
    "401": act.says({"error": "no"}, 401),
    "500": act.raw(b"Internal Server Error", 500),
    "404": act.says({"error": "no"}, 404),
    "redirect": act.redirects("http://127.0.0.1:9/"),
    "no list": act.says({"agents": 7}),
    "endless": act.endless,
    "no http": act.no_http,
}


def test_while_membridge_is_out_of_order_the_runtime_serves_on_says_so_and_logs_it_once(
    connected: Replica,
    membridge: Stub,
    sync: Callable[[], float],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "QUIET_SEC", 0.0)
    membridge.agents = [agent("pi")]
    sync()
    for bad in BROKEN.values():
        caplog.clear()
        membridge.behave("*", bad)
        for number in (1, 2):
            assert sync() <= 9
            found = told(connected.get("/health"))
            assert found["status"] == "ok"
            assert (found["membridge"]["consecutiveFailures"], found["membridge"]["connected"]) == (number, False)
            assert found["membridge"]["lastError"] and found["membridge"]["lastSuccess"]
        connected.http.get(f"{connected.url}/api/membridge/health")
        connected.create()
        assert len([r for r in caplog.records if r.name.startswith("bloom") and r.name != "bloom.access"]) == 1
        membridge.behave("*", None)
        sync()
        assert told(connected.get("/health"))["membridge"]["connected"]
    assert workers(connected)["pi"]["status"] == "online"


def test_a_membridge_that_comes_and_goes_by_the_second_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    link = health.LinkHealth()
    link.begin(Saved(None, None, 0, None, 0, None, None))
    for _ in range(100):
        link.failed(0, "away")
        link.succeeded(0)
    assert len(caplog.records) == 1 and link.connected
    link.failed(-1, "another one was away")
    assert link.connected


def test_while_membridge_is_slow_nobody_waits_for_it(
    start_replica: StartReplica, membridge: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_SEC", 0.2)
    membridge.behave("*", act.silent)
    runtime = start_replica(maintenance=True, MEMBRIDGE_SERVER_URL=membridge.url)
    assert told(runtime.get("/health"))["status"] == "ok"
    runtime.create()
    eventually(lambda: told(runtime.get("/health"))["membridge"]["lastError"], what="the health to say so")
