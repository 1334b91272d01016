"""A rolling restart under load: replicas behind nginx are stopped and started one after the other, and no request fails."""

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.blobs.blob_servers import free_port
from tests.deploy.nginx_front import NAME, Front
from tests.soak.fleet import Program, wait_until

KEY = "the admin's key"
CALLERS = 2
CLAIM_SEC = 5


class OwnReplica(Program):
    """`bloom serve` on a port that is its own: while it is gone nobody listens there."""

    def __init__(self, name: str, database_url: str, log: Path, **environment: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        values = {
            "DATABASE_URL": database_url,
            "RUNTIME_API_KEY": KEY,
            "BLOOM_SECRET_KEY": "the secret of the tests",
            "BLOOM_RATE_LIMIT": "off",
            "BLOOM_DB_POOL_SIZE": "4",
            **environment,
        }
        argv = [sys.executable, "-m", "bloom", "serve", "--host", "127.0.0.1", "--port", str(port)]
        super().__init__(name, argv, {**os.environ, **values}, log)

    def health(self) -> Any:
        """What its health route says; None where nobody answers."""
        try:
            return httpx.get(f"{self.url}/api/runtime/health", timeout=5, trust_env=False).json()["status"]
        except httpx.TransportError:
            return None

    def until_ready(self) -> None:
        """Return when it serves."""
        wait_until(lambda: self.health() == "ok", f"{self.name} to serve")


@dataclass
class Callers:
    """Threads that call through nginx all the time, on connections that they keep, and note whatever is not as it should be."""

    front: Front
    answers: Counter[str] = field(default_factory=Counter[str])
    created: set[str] = field(default_factory=set[str])
    completed: set[str] = field(default_factory=set[str])
    wrong: list[str] = field(default_factory=list[str])

    def __enter__(self) -> "Callers":
        self._stopping = threading.Event()
        roles: list[Callable[[httpx.Client], None]] = [*[self._submit] * CALLERS, self._work, self._follow]
        self._threads = [threading.Thread(target=self._guarded, args=(role,)) for role in roles]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with httpx.Client(verify=False, headers={"Host": NAME, "X-Runtime-API-Key": KEY}) as http:  # noqa: S501 - its own
            self._submit_one(http)  # whoever follows hears of it, and sees that it is over
        for thread in self._threads:
            thread.join(CLAIM_SEC + 30)

    def _guarded(self, role: Callable[[httpx.Client], None]) -> None:
        headers = {"Host": NAME, "X-Runtime-API-Key": KEY}
        with httpx.Client(verify=False, timeout=60, headers=headers, trust_env=False) as http:  # noqa: S501 - its own
            try:
                role(http)
            except Exception as error:  # noqa: BLE001 (it is told at the end)
                self.wrong.append(f"{role.__name__}: {error!r}")

    def _ask(self, http: httpx.Client, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = http.request(method, f"{self.front.url}/api/runtime{path}", json=body)
        except httpx.TransportError as error:
            self.wrong.append(f"{method} {path}: {error!r}")
            return {}
        self.answers[f"{method} {answer.status_code}"] += 1
        if answer.status_code not in (200, 201):
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:100]}")
            return {}
        return answer.json()

    def _submit(self, http: httpx.Client) -> None:
        while not self._stopping.wait(0.02):
            self._submit_one(http)

    def _submit_one(self, http: httpx.Client) -> None:
        body = {"context_id": "c", "agent_slug": "a", "prompt": "p" * 2000}
        if task := self._ask(http, "POST", "/llm-tasks", body):
            self.created.add(task["id"])
            self._ask(http, "GET", f"/llm-tasks/{task['id']}")

    def _work(self, http: httpx.Client) -> None:
        self._ask(http, "POST", "/workers", {"name": "w", "capabilities": {"max_concurrency": 32}})
        number = 0
        while not self._stopping.is_set():
            number += 1
            claim = {"request_id": str(number), "slots": 32, "wait_sec": CLAIM_SEC, "ttl_seconds": 300}
            for item in self._ask(http, "POST", "/workers/w/claim", claim).get("leases", ()):
                report = {
                    "lease_id": item["lease"]["id"],
                    "status": "success",
                    "output": "o",
                    "metrics": {"duration_ms": 1},
                }
                if self._ask(http, "POST", f"/llm-tasks/{item['task']['id']}/complete", report):
                    self.completed.add(item["task"]["id"])

    def _follow(self, http: httpx.Client) -> None:
        """A reader of the stream of all news: each ends well, and is begun again."""
        while not self._stopping.is_set():
            with http.stream("GET", f"{self.front.url}/api/runtime/stream") as stream:
                self.answers[f"stream {stream.status_code}"] += 1
                for _ in stream.iter_lines():
                    if self._stopping.is_set():
                        return


def roll(front: Front, replicas: Sequence[OwnReplica], *, rounds: int) -> tuple[Callers, list[float]]:
    """Restart each of `replicas`, which serve, so many times; what the callers met, and how long each restart took."""
    took: list[float] = []
    with Callers(front) as callers:
        wait_until(lambda: len(callers.completed) > 20 or callers.wrong, "the load")
        assert not callers.wrong, callers.wrong[:5]
        for _ in range(rounds):
            for replica in replicas:
                began, before = time.monotonic(), len(callers.created)
                replica.send(signal.SIGTERM)
                wait_until(lambda replica=replica: replica.health() in ("stopping", None), "the replica to say so")
                if not replica.end(signal.SIGTERM):
                    callers.wrong.append(f"{replica.name} did not stop by itself")
                replica.start()
                replica.until_ready()
                took.append(time.monotonic() - began)
                if len(callers.created) == before:
                    callers.wrong.append("nobody was served meanwhile")
    return callers, took
