"""Those who use the runtime during the storm: they repeat what got no answer, and write down what was acknowledged."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.soak.fleet import TTL_SEC

SUBMITTERS = 3
GIVE_UP_SEC = 60.0
"""After the storm everything is back: whoever got no answer for this long will never get one."""

KINDS = ["plain"] * 10 + ["fork", "fork", "slow", "fail", "crash"]


@dataclass
class Ledger:
    """What the runtime has acknowledged, and what it should not have said."""

    created: dict[str, str] = field(default_factory=dict[str, str])
    """Task by idempotency key."""
    completed: dict[str, str] = field(default_factory=dict[str, str])
    """Task by the lease whose report was accepted."""
    answers: Counter[str] = field(default_factory=Counter[str])
    unanswered: int = 0
    wrong: list[str] = field(default_factory=list[str])


class Traffic:
    """Threads that submit, change their mind, and work by hand, until told to stop."""

    def __init__(self, addresses: Sequence[str], workers: Sequence[str], seed: int) -> None:
        self.ledger = Ledger()
        self.addresses = [f"{address}/api/runtime" for address in addresses]
        self._workers = workers
        self._stopping = threading.Event()
        self._stopped_at = float("inf")
        roles = [*(self._submit for _ in range(SUBMITTERS)), self._change_minds, self._work]
        self._threads = [
            threading.Thread(target=self._guarded, args=(role, random.Random(seed * 100 + n), n), daemon=True)
            for n, role in enumerate(roles)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing new, and wait until everybody has got the answers to what they asked."""
        self._stopped_at = time.monotonic()
        self._stopping.set()
        for thread in self._threads:
            thread.join(GIVE_UP_SEC + 10)

    @property
    def given_up(self) -> bool:
        """Whether nobody asks any more: what was not answered by now never will be."""
        return time.monotonic() > self._stopped_at + GIVE_UP_SEC

    def _guarded(self, role: Callable[["_Caller"], None], choose: random.Random, number: int) -> None:
        with httpx.Client(timeout=3, trust_env=False) as http:
            try:
                role(_Caller(self, http, choose, number))
            except Exception as error:  # noqa: BLE001 (it is told at the end)
                self.ledger.wrong.append(f"{role.__name__} ended by {error!r}")

    def _pause(self, caller: "_Caller", least: float, most: float) -> bool:
        return self._stopping.wait(caller.choose.uniform(least, most))

    def _submit(self, caller: "_Caller") -> None:
        count = 0
        while not self._pause(caller, 0.1, 0.5):
            choose, kind = caller.choose, caller.choose.choice(KINDS)
            count += 1
            key = f"{caller.number}-{count}"
            body: dict[str, Any] = {
                "context_id": f"context-{choose.randrange(20)}",
                "agent_slug": "agent",
                "prompt": f"{kind} {key}",
                "priority": choose.choice([0, 0, 1]),
                "max_attempts": 2 if kind == "crash" else choose.choice([3, 10, 10]),
                "retry": {"base_sec": 0.1, "max_sec": 0.5},
            }
            if choose.random() < 0.15:
                body["concurrency_key"] = f"key-{choose.randrange(3)}"
            if choose.random() < 0.15:
                body["run_at"] = int(time.time() * 1000) + 1000
            for _ in range(choose.choice([1, 1, 1, 2])):
                task = caller.ask("POST", "/llm-tasks", body, 200, 201, **{"Idempotency-Key": key})
                if self.ledger.created.setdefault(key, task["id"]) != task["id"]:
                    self.ledger.wrong.append(f"two tasks for the idempotency key {key}")

    def _change_minds(self, caller: "_Caller") -> None:
        while not self._pause(caller, 0.1, 0.6):
            tasks = list(self.ledger.created.values())
            roll, choose = caller.choose.random(), caller.choose
            if roll < 0.4 and tasks:
                caller.ask("POST", f"/llm-tasks/{choose.choice(tasks[-20:])}/cancel", {}, 200, 409)
            elif roll < 0.8 and tasks:
                caller.ask("POST", f"/llm-tasks/{choose.choice(tasks)}/requeue", {}, 200, 409)
            elif roll < 0.9:
                caller.ask("DELETE", f"/workers/{choose.choice(self._workers)}", None, 200, 404)
            else:
                name = choose.choice(self._workers)
                caller.ask("POST", f"/workers/{name}/drain", {}, 200, 404)
                self._pause(caller, 0.2, 1)
                caller.ask("POST", f"/workers/{name}/resume", {}, 200, 404)

    def _work(self, caller: "_Caller") -> None:
        """A worker that notes which of its reports were accepted."""
        name, count = "by-hand", 0
        caller.ask("POST", "/workers", {"name": name, "capabilities": {"max_concurrency": 2}}, 200, 201)
        while not self._pause(caller, 0.1, 0.5):
            count += 1
            claim = {"request_id": f"{count}", "slots": 2, "wait_sec": 1, "ttl_seconds": TTL_SEC}
            for item in caller.ask("POST", f"/workers/{name}/claim", claim, 200)["leases"]:
                task, lease = item["task"]["id"], item["lease"]["id"]
                events = {"lease_id": lease, "events": [{"seq": n, "type": "text"} for n in (1, 2)]}
                caller.ask("POST", f"/llm-tasks/{task}/events", events, 200, 409)
                report = {"lease_id": lease, "status": "success", "output": lease, "metrics": {"duration_ms": 1}}
                done = caller.ask("POST", f"/llm-tasks/{task}/complete", report, 200, 409)
                if "code" not in done:
                    self.ledger.completed[lease] = task


@dataclass
class _Caller:
    """One thread's way to the replicas."""

    traffic: Traffic
    http: httpx.Client
    choose: random.Random
    number: int

    def ask(self, method: str, path: str, body: Any, *expected: int, **headers: str) -> Any:
        """The answer of one of the replicas; asked again, of any of them, while there is none."""
        traffic = self.traffic
        while not traffic.given_up:
            address = self.choose.choice(traffic.addresses)
            try:
                answer = self.http.request(method, address + path, json=body, headers=headers)
            except httpx.TransportError:
                traffic.ledger.unanswered += 1
                continue
            traffic.ledger.answers[str(answer.status_code)] += 1
            if answer.status_code in expected:
                return answer.json()
            if answer.status_code != 503:
                traffic.ledger.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
                raise RuntimeError("an answer that nobody should get")
            time.sleep(0.1)
        raise TimeoutError(f"{method} {path} was never answered")
