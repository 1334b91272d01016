"""News: the claim that waits, the stream of a task, events by seq. Nothing here happens by the clock: only NOTIFY wakes."""

import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import API, Replica, StartReplica, in_background, refused, told
from tests.runtime.invariants import check_invariants
from tests.streams.sse_reading import Heard, reading

from bloom.db.hub import task_topic

NEVER_SEC = 50
"""A wait that a test would notice."""


def events(lease_id: str, *seqs: int) -> dict[str, Any]:
    return {"lease_id": lease_id, "events": [{"seq": n, "type": "text", "data": {"n": n}} for n in seqs]}


def append(api: Replica, task_id: str, lease_id: str, *seqs: int) -> httpx.Response:
    return api.post(f"/llm-tasks/{task_id}/events", events(lease_id, *seqs))


def waits(replica: Replica, database: FreshDatabase) -> None:
    """Return when a claim waits at `replica`."""
    eventually(lambda: replica.services.granting.watch.claims, what="a claim that waits")
    eventually(lambda: database.value("select polling_until is not null from bloom.workers where id = 'worker'"))


@pytest.fixture
def pair(start_replica: StartReplica) -> tuple[Replica, Replica]:
    """Two replicas that hear each other's news, and a worker of two slots."""
    pair = start_replica(), start_replica()
    for replica in pair:
        replica.until_listening()
    pair[0].register(slots=2)
    return pair


# --- claims that wait -------------------------------------------------------------------------------------------------


class News:
    """Ways to make a task claimable: each prepares at `here` and returns what brings the news at `there`."""

    def __init__(self, here: Replica, there: Replica, database: FreshDatabase) -> None:
        self.here, self.there, self.database = here, there, database

    def created(self) -> Callable[[], str]:
        return lambda: self.there.create()["id"]

    def requeued(self) -> Callable[[], str]:
        task = self.here.create()["id"]
        told(self.here.post(f"/llm-tasks/{task}/cancel"))
        return lambda: told(self.there.post(f"/llm-tasks/{task}/requeue"))["id"]

    def worker_resumed(self) -> Callable[[], str]:
        told(self.here.post("/workers/worker/drain"))
        task = self.here.create()["id"]
        return lambda: told(self.there.post("/workers/worker/resume")) and task

    def slot_freed(self) -> Callable[[], str]:
        held = [self.here.leased(context_id=f"c{n}")[0]["id"] for n in range(2)]
        task = self.here.create()["id"]
        return lambda: told(self.there.complete(held[0])) and task

    def lease_reaped(self) -> Callable[[], str]:
        self.here.register("dying")
        _, lease = self.here.leased("dying")
        self.database.expire(lease["id"])
        return lambda: self.there.reap()[0]

    def worker_removed(self) -> Callable[[], str]:
        self.here.register("leaving")
        task, _ = self.here.leased("leaving")
        return lambda: told(self.there.delete("/workers/leaving")) and task["id"]

    def key_freed(self) -> Callable[[], str]:
        first, second = [self.here.create(concurrency_key="k", run_at=at)["id"] for at in (253_402_300_799_999, None)]
        return lambda: told(self.there.post(f"/llm-tasks/{first}/cancel")) and second


NEWS = (
    News.created,
    News.requeued,
    News.worker_resumed,
    News.slot_freed,
    News.lease_reaped,
    News.worker_removed,
    News.key_freed,
)


@pytest.mark.parametrize("news", NEWS, ids=[news.__name__ for news in NEWS])
def test_a_waiting_claim_is_woken_by_what_happens_at_another_replica(
    pair: tuple[Replica, Replica], database: FreshDatabase, news: Callable[[News], Callable[[], str]]
) -> None:
    here, there = pair
    happen = news(News(here, there, database))
    with in_background(lambda: here.claim("worker", "r", wait_sec=NEVER_SEC)) as claim:
        waits(here, database)
        assert not claim.done()
        task = happen()
        assert [item["task"]["id"] for item in claim.result(5)] == [task]
    check_invariants(database)


def test_of_two_claims_that_wait_for_one_task_one_gets_it_and_the_other_waits_on(
    pair: tuple[Replica, Replica], database: FreshDatabase
) -> None:
    here, there = pair
    here.register("other")
    with (
        in_background(lambda: here.claim("worker", "r", wait_sec=NEVER_SEC)) as one,
        in_background(lambda: there.claim("other", "r", wait_sec=NEVER_SEC)) as other,
    ):
        waits(here, database)
        eventually(lambda: database.value("select count(*) from bloom.workers where polling_until > now()") == 2)
        first = there.create(context_id="first")["id"]
        eventually(lambda: one.done() or other.done())
        second = here.create(context_id="second")["id"]
        given = [claim.result(5)[0]["task"]["id"] for claim in (one, other)]
    assert sorted(given) == sorted([first, second])
    check_invariants(database)


def test_a_claim_that_waits_ends_when_its_client_hangs_up(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    body = b'{"request_id": "r", "wait_sec": 50}'
    head = f"POST {API}/workers/worker/claim HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((urlsplit(runtime.url).hostname or "", urlsplit(runtime.url).port or 0)) as caller:
        caller.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        waits(runtime, database)
    eventually(lambda: not runtime.services.granting.watch.claims, what="the end of the claim")
    task = runtime.create()
    assert runtime.task(task["id"])["status"] == "queued"


def test_a_claim_that_waits_is_answered_when_the_server_stops(
    start_replica: StartReplica, database: FreshDatabase
) -> None:
    replica = start_replica()
    replica.register()
    with (
        Replica(database.url) as leaving,
        in_background(lambda: leaving.claim("worker", "r", wait_sec=NEVER_SEC)) as claim,
    ):
        waits(leaving, database)
        leaving.leave()
        assert claim.result(5) == []


def test_a_claim_that_may_not_wait_or_has_waited_is_answered_with_nothing(runtime: Replica) -> None:
    runtime.register()
    assert runtime.claim("worker", "r1") == []
    assert runtime.claim("worker", "r2", wait_sec=0.05) == []
    assert not runtime.services.granting.watch.claims


def test_waiting_again_with_the_request_id_of_a_lost_answer_gets_its_leases_at_once(runtime: Replica) -> None:
    runtime.register()
    task = runtime.create()
    runtime.claim("worker", "r", wait_sec=NEVER_SEC)
    (granted,) = runtime.claim("worker", "r", wait_sec=NEVER_SEC)
    assert granted["task"]["id"] == task["id"]


def test_news_are_heard_again_after_the_listening_connection_was_cut(
    pair: tuple[Replica, Replica], database: FreshDatabase
) -> None:
    here, there = pair
    with in_background(lambda: here.claim("worker", "r", wait_sec=NEVER_SEC)) as claim:
        waits(here, database)
        database.rows("""select pg_terminate_backend(pid) from pg_stat_activity
                         where application_name = 'bloom-hub' and datname = current_database()""")  # fmt: skip
        task = there.create()["id"]
        # Whether the news came before or after the cut: who listens anew looks.
        assert [item["task"]["id"] for item in claim.result(5)] == [task]


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_are_stored_once_by_their_seq_and_a_gap_is_refused(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task, lease = runtime.leased()
    assert told(append(runtime, task["id"], lease["id"], 1, 2)) == {"accepted": 2, "next_seq": 3, "cancel": False}
    assert told(append(runtime, task["id"], lease["id"], 1, 2)) == {"accepted": 0, "next_seq": 3, "cancel": False}
    assert told(append(runtime, task["id"], lease["id"], 2, 3)) == {"accepted": 1, "next_seq": 4, "cancel": False}
    before = database.dump()["task_events"]
    for gap in ((5,), (4, 6), (100,)):
        answer = append(runtime, task["id"], lease["id"], *gap)
        assert refused(answer, 409) == "events_gap" and answer.json()["next_seq"] == 4
    assert database.dump()["task_events"] == before
    assert told(append(runtime, task["id"], lease["id"], 5, 4))["next_seq"] == 6
    assert [e["seq"] for e in told(runtime.get(f"/llm-tasks/{task['id']}/events"))] == [1, 2, 3, 4, 5]
    check_invariants(database)


@pytest.mark.parametrize("first", [0, 1])
def test_the_seq_of_a_lease_begins_with_nought_or_one(runtime: Replica, first: int) -> None:
    runtime.register()
    task, lease = runtime.leased()
    assert refused(append(runtime, task["id"], lease["id"], 2), 409) == "events_gap"
    assert told(append(runtime, task["id"], lease["id"], first, first + 1))["next_seq"] == first + 2


def test_each_lease_counts_its_own_events_and_the_task_counts_all(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task, lease = runtime.leased()
    told(append(runtime, task["id"], lease["id"], 1, 2))
    told(runtime.fail(task["id"], retryable=True, retry_after_sec=0))
    second = runtime.lease(task["id"])
    told(append(runtime, task["id"], second["id"], 1))
    assert refused(append(runtime, task["id"], lease["id"], 3), 409) == "lease_lost"
    seen = [(e["id"], e["lease_id"], e["seq"]) for e in told(runtime.get(f"/llm-tasks/{task['id']}/events"))]
    assert seen == [(1, lease["id"], 1), (2, lease["id"], 2), (3, second["id"], 1)]
    check_invariants(database)


# --- the stream of a task ---------------------------------------------------------------------------------------------


def is_end(heard: Heard) -> bool:
    return heard.event == "end"


def test_a_stream_tells_states_events_and_the_end_in_order_across_replicas(pair: tuple[Replica, Replica]) -> None:
    here, there = pair
    task = here.create()["id"]
    with reading(there, f"/llm-tasks/{task}/stream") as reader:
        (created,) = reader.take(1)
        assert (created.event, created.data["status"]) == ("task", "queued")
        lease = here.lease(task)["id"]
        (leased,) = reader.take(1)
        assert (leased.event, leased.data["status"], leased.data["lease_id"]) == ("task", "leased", lease)
        told(append(here, task, lease, 1, 2))
        news = reader.until(lambda heard: heard.event == "run" and heard.data["seq"] == 2)
        done = told(here.complete(task))
        *rest, end = reader.until(is_end)
        assert [heard.data["seq"] for heard in news + rest if heard.event == "run"] == [1, 2]
        # It comes before, between or after the events, or not at all where the end was quicker.
        assert [heard.data["status"] for heard in news + rest if heard.event == "task"] in (["running"], [])
        assert end.data["task"] == done["task"]
        assert end.data["result"]["id"] == done["result"]["id"] and end.data["result"]["output"] == "Hello."


def test_a_stream_goes_on_behind_the_last_event_that_was_seen(runtime: Replica) -> None:
    runtime.until_listening()
    runtime.register()
    task, lease = runtime.leased()
    told(append(runtime, task["id"], lease["id"], *range(1, 11)))
    path = f"/llm-tasks/{task['id']}/stream"
    with reading(runtime, path) as reader:
        first = [heard for heard in reader.take(5) if heard.event == "run"]
    told(append(runtime, task["id"], lease["id"], *range(11, 21)))
    with reading(runtime, path, first[-1].id) as reader:
        told(runtime.complete(task["id"]))
        rest = reader.until(is_end)
    seqs = [heard.data["seq"] for heard in first + rest if heard.event == "run"]
    assert seqs == list(range(1, 21))
    assert [heard.id for heard in first + rest if heard.event == "run"] == [str(n) for n in range(1, 21)]


@pytest.mark.parametrize("ending", ["completed", "failed", "cancelled", "dead"])
def test_a_stream_of_an_ended_task_tells_its_events_and_ends(
    runtime: Replica, database: FreshDatabase, ending: str
) -> None:
    runtime.register()
    task, lease = runtime.leased(max_attempts=1)
    told(append(runtime, task["id"], lease["id"], 1, 2, 3))
    if ending == "dead":
        database.expire(lease["id"])
        runtime.reap()
    elif ending == "cancelled":
        told(runtime.post(f"/llm-tasks/{task['id']}/cancel"))
        runtime.fail(task["id"])
    else:
        told(runtime.complete(task["id"]) if ending == "completed" else runtime.fail(task["id"]))
    with reading(runtime, f"/llm-tasks/{task['id']}/stream") as reader:
        heard = reader.until(is_end)
        assert [h.event for h in heard] == ["run", "run", "run", "end"]
        assert heard[-1].data["task"]["status"] == ending
        assert (heard[-1].data["result"] is None) == (ending == "dead")
    with reading(runtime, f"/llm-tasks/{task['id']}/stream", "3") as reader:
        assert [h.event for h in reader.until(is_end)] == ["end"]


def test_a_stream_tells_that_a_cancel_was_asked_for_and_the_return_to_the_queue(runtime: Replica) -> None:
    runtime.until_listening()
    runtime.register()
    task, _ = runtime.leased()
    with reading(runtime, f"/llm-tasks/{task['id']}/stream") as reader:
        assert reader.take(1)[0].data["status"] == "leased"
        told(runtime.fail(task["id"], retryable=True, retry_after_sec=0))
        assert reader.take(1)[0].data["status"] == "queued"
        runtime.lease(task["id"])
        assert reader.take(1)[0].data["status"] == "leased"
        told(runtime.post(f"/llm-tasks/{task['id']}/cancel"))
        (asked,) = reader.take(1)
        assert asked.data["status"] == "leased" and asked.data["cancel_requested"] is True


def test_a_stream_leaves_nothing_behind_when_its_reader_hangs_up(runtime: Replica) -> None:
    task = runtime.create()["id"]
    with reading(runtime, f"/llm-tasks/{task}/stream") as reader:
        reader.take(1)
        assert task_topic(task) in runtime.services.hub.subscriptions
    eventually(lambda: task_topic(task) not in runtime.services.hub.subscriptions, what="the end of the stream")
