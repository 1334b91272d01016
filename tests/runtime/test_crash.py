"""`kill -9` of the server under load: what was acknowledged is there, nothing is half written, nothing is stuck."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Served, StartServed, success, told
from tests.runtime.invariants import check_invariants

KILLS = 5
CLIENTS = 5
REPORTS_BETWEEN_KILLS = 15
LARGE = "0123456789abcde\n" * 70_000
"""Over a mebibyte: it is written in chunks."""


@dataclass
class Load:
    """Clients that create, claim and report without end, repeat what got no answer, and note what was acknowledged."""

    server: Served
    stopping: threading.Event = field(default_factory=threading.Event)
    created: set[str] = field(default_factory=set[str])
    completed: dict[str, str] = field(default_factory=dict[str, str])
    refused: Counter[str] = field(default_factory=Counter[str])
    reports: int = 0
    unanswered: int = 0

    def client(self, number: int) -> None:
        """One client, until the load stops."""
        worker = f"worker-{number}"
        self.ask(lambda: self.server.post("/workers", {"name": worker, "capabilities": {"max_concurrency": 4}}))
        turn = 0
        while not self.stopping.is_set():
            turn += 1
            name = f"{number}-{turn}"
            body = {"context_id": f"context {number}", "agent_slug": "a", "prompt": name, "max_attempts": 10}
            task = self.ask(lambda: self.server.post("/llm-tasks", body, **{"Idempotency-Key": name}))  # noqa: B023
            self.created.add(task["id"])
            claim = {"request_id": name, "slots": 2}
            for item in self.ask(lambda: self.server.post(f"/workers/{worker}/claim", claim))["leases"]:  # noqa: B023
                self.work(item["task"]["id"], item["lease"]["id"], turn)

    def work(self, task_id: str, lease_id: str, turn: int) -> None:
        """Report on one lease, in one of several ways."""
        events = {"lease_id": lease_id, "events": [{"seq": n, "type": "text", "data": {"n": n}} for n in range(3)]}
        self.ask(lambda: self.server.post(f"/llm-tasks/{task_id}/events", events))
        output = f"{lease_id} {LARGE if turn % 8 == 0 else ''}"
        report: dict[str, Any] = {**success(output), "lease_id": lease_id}
        if turn % 5 == 0:
            report |= {"status": "error", "error_message": "again", "retryable": True, "retry_after_sec": 0}
        elif turn % 9 == 0:
            self.ask(lambda: self.server.post(f"/llm-tasks/{task_id}/cancel"))
        done = self.ask(lambda: self.server.post(f"/llm-tasks/{task_id}/complete", report))
        if "code" in done:
            self.refused[done["code"]] += 1
        elif report["status"] == "success":
            self.completed[task_id] = output
        self.reports += 1

    def ask(self, call: Callable[[], httpx.Response]) -> Any:
        """The answer to `call`, which is repeated while there is none."""
        while True:
            try:
                answer = call()
            except httpx.TransportError:
                self.unanswered += 1
                continue
            assert answer.status_code in (200, 201, 409), (answer.status_code, answer.text[:500])
            return answer.json()


def test_what_was_acknowledged_survives_five_kills_under_load(served: StartServed, database: FreshDatabase) -> None:
    server = served()
    load = Load(server)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load.client, n) for n in range(CLIENTS)]
        try:
            for _ in range(KILLS):
                enough = load.reports + REPORTS_BETWEEN_KILLS
                eventually(lambda: load.reports >= enough or any(c.done() for c in clients), within_sec=30)  # noqa: B023
                server.kill()
                server.start(wait=False)
        finally:
            load.stopping.set()
        for client in clients:
            client.result(30)
    assert load.unanswered >= KILLS and set(load.refused) <= {"cancelled"}
    check_invariants(database)

    known = {row["id"]: row["status"] for row in database.rows("select id, status from bloom.tasks")}
    assert load.created == known.keys()
    assert {known[task_id] for task_id in load.completed} == {"completed"}
    for task_id, output in load.completed.items():
        (artifact,) = told(server.get("/artifacts", task_id=task_id))
        assert artifact["sha256"] == hashlib.sha256(output.encode()).hexdigest()

    # Of workers that died with leases in hand: after the end of these everything can be worked on again.
    server.register("dying", slots=4)
    for n in range(4):
        server.create(context_id=f"dying {n}")
    held_by_the_dying = server.claim("dying", "r", slots=4)
    told(server.heartbeat(held_by_the_dying[0]["task"]["id"]))
    assert len(held_by_the_dying) == 4
    server.kill()
    server.start()
    database.edit("update bloom.leases set expires_at = now() - interval '1 s' where status = 'active'")
    held = "select count(*) from bloom.tasks where status in ('leased', 'running')"
    eventually(lambda: database.value(held) == 0, what="the reaper", within_sec=15)
    check_invariants(database)
    server.register("last", slots=32)
    waiting = database.value("select count(*) from bloom.tasks where status = 'queued'")
    for n in range(waiting // 32 + 1):
        for item in server.claim("last", f"rest {n}", slots=32):
            told(server.complete(item["task"]["id"], item["lease"]["id"]))
    assert (
        database.value("select count(*) from bloom.tasks where status not in ('completed', 'cancelled', 'dead')") == 0
    )
    check_invariants(database)
