"""How long a task that is posted to an idle fleet waits for its worker, on one machine."""

import statistics
import threading
import time
import uuid
from queue import Queue
from typing import Any

import httpx

from bench.stack import Stack

WARM_UP = 20
RUNS = 200


def measure() -> dict[str, dict[str, float]]:
    """Milliseconds (p50, p99, max) from the start of the POST to a claim's answer, and to the child of a real worker.

    The child is `date`, whose own start of a process (1 to 2 ms) is part of the figure.
    """
    with Stack() as stack, httpx.Client(base_url=f"{stack.url}/api/runtime", timeout=60) as client:
        claims = _claims(client, stack.url)
        stack.start_worker("bench", slots=1, command=["date", "+%s%N"])
        starts = _worker_starts(client)
    return {"POST to claim answer": _summary(claims), "POST to the worker's child": _summary(starts)}


def _post(client: httpx.Client, label: str) -> tuple[str, int]:
    body = {"context_id": uuid.uuid4().hex, "agent_slug": "bench", "prompt": "go", "labels": [label] if label else []}
    sent = time.time_ns()
    answer = client.post("/llm-tasks", json=body)
    answer.raise_for_status()
    return answer.json()["id"], sent


def _claims(client: httpx.Client, url: str) -> list[float]:
    """A claim waits in another thread; each task is completed before the next is posted."""
    client.post("/workers", json={"name": "claimer", "capabilities": {"labels": ["claimer"]}}).raise_for_status()
    answered: Queue[tuple[int, Any]] = Queue()
    waiting = threading.Event()

    def claim_forever() -> None:
        with httpx.Client(base_url=f"{url}/api/runtime", timeout=60) as mine:
            for _ in range(WARM_UP + RUNS):
                waiting.set()
                body = {"request_id": uuid.uuid4().hex, "slots": 1, "wait_sec": 30}
                leases = mine.post("/workers/claimer/claim", json=body).json()["leases"]
                at = time.time_ns()
                report = {"status": "success", "output": "", "metrics": {"duration_ms": 0}}
                ids = {"task_id": leases[0]["task"]["id"], "lease_id": leases[0]["lease"]["id"]}
                mine.post("/workers/claimer/complete", json={"completions": [{**report, **ids}]}).raise_for_status()
                answered.put((at, ids))

    thread = threading.Thread(target=claim_forever, daemon=True)
    thread.start()
    took: list[float] = []
    for _ in range(WARM_UP + RUNS):
        waiting.wait()
        waiting.clear()
        time.sleep(0.005)  # until the claim waits on the server
        _, sent = _post(client, "claimer")
        at, _ = answered.get(timeout=30)
        took.append((at - sent) / 1e6)
    thread.join()
    return took[WARM_UP:]


def _worker_starts(client: httpx.Client) -> list[float]:
    took: list[float] = []
    for _ in range(WARM_UP + RUNS):
        task_id, sent = _post(client, "")
        deadline = time.monotonic() + 30
        while not (results := client.get(f"/llm-tasks/{task_id}/results").json()):
            if time.monotonic() > deadline:
                raise TimeoutError("the worker did not run the task")
            time.sleep(0.01)
        took.append((int(results[0]["output"]) - sent) / 1e6)
        time.sleep(0.05)  # until the worker's next claim waits on the server
    return took[WARM_UP:]


def _summary(milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {
        "p50": round(statistics.median(ordered), 1),
        "p99": round(ordered[int(len(ordered) * 0.99) - 1], 1),
        "max": round(ordered[-1], 1),
    }
