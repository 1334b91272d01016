"""PostgreSQL fails over under load: the primary is killed, whole or its PostgreSQL alone, and the fleet goes on by itself."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from tests.ha.patroni import Cluster, Node
from tests.soak.fleet import Fleet, wait_until
from tests.soak.storm import Tell, told_of_tasks, until_final, verdict
from tests.soak.traffic import Traffic
from tests.worker.living import marked

SERVING_SEC = 15.0
"""By then, after the primary's death, a task is accepted; the issue of this proof says so."""


@dataclass(frozen=True)
class Blow:
    """What one death of the primary cost, in seconds from it on."""

    what: str
    accepted_sec: float
    completed_sec: float

    def __str__(self) -> str:
        accepted = f"the next task accepted after {self.accepted_sec:.1f} s"
        return f"{self.what}: {accepted}, done by a worker after {self.completed_sec:.1f} s"


def submit(fleet: Fleet, key: str) -> str | None:
    """The id of a new task, asked of each replica in turn; None where none takes it."""
    body = {"context_id": "probe", "agent_slug": "agent", "prompt": "plain probe"}
    for address in fleet.addresses:
        try:
            answer = httpx.post(
                f"{address}/api/runtime/llm-tasks",
                json=body,
                headers={"Idempotency-Key": key},
                timeout=2,
                trust_env=False,
            )
        except httpx.TransportError:
            continue
        if answer.status_code in (200, 201):
            return str(answer.json()["id"])
    return None


def is_done(fleet: Fleet, task_id: str) -> bool:
    for address in fleet.addresses:
        try:
            answer = httpx.get(f"{address}/api/runtime/llm-tasks/{task_id}", timeout=2, trust_env=False)
        except httpx.TransportError:
            continue
        if answer.status_code == 200:
            return answer.json()["status"] == "completed"
    return False


def ending(fleet: Fleet, traffic: Traffic, tell: Tell) -> list[str]:
    """Peace, the same look as after a storm, and the figures; what is wrong."""
    dead = [program.name for program in (*fleet.replicas, *fleet.workers) if program.pid is None]
    wrong = [f"{name} did not live through it" for name in dead]
    traffic.stop()
    ledger = traffic.ledger
    wrong += ledger.wrong
    try:
        until_final(fleet, tell)
    except TimeoutError as error:
        wrong.append(f"{error}: {told_of_tasks(fleet)}")
    wrong += verdict(fleet, ledger)
    tell(
        f"{len(ledger.created)} tasks acknowledged, {len(ledger.completed)} reports accepted by hand; {told_of_tasks(fleet)}"
    )
    tell(f"answers: {dict(sorted(ledger.answers.items()))}, {ledger.unanswered} without an answer")
    return wrong


def _strike(fleet: Fleet, traffic: Traffic, number: int, what: str, strike: Callable[[], None]) -> Blow:
    died_at = time.monotonic()
    strike()
    task_id: str | None = None
    key = f"probe-{number}"

    def accepted() -> bool:
        nonlocal task_id
        task_id = submit(fleet, key)
        return task_id is not None

    wait_until(accepted, "a runtime that takes tasks")
    assert task_id is not None
    accepted_at = time.monotonic()
    traffic.ledger.created[key] = task_id
    wait_until(lambda: is_done(fleet, task_id or ""), "a worker that runs it")
    return Blow(what, accepted_at - died_at, time.monotonic() - died_at)


def run_fail_over(directory: Path, *, rounds: int, seed: int, tell: Tell) -> list[str]:
    """Kill the primary so many times, in turn the whole node and PostgreSQL alone; what is wrong afterwards."""
    cluster = Cluster(directory / "cluster")
    wrong: list[str] = []
    tell("starting etcd, two PostgreSQL nodes under Patroni, two replicas, four workers")
    with marked() as marker, Fleet(directory, marker, replicas=2, workers=4, database=cluster) as fleet:
        traffic = Traffic(fleet.addresses, [worker.name for worker in fleet.workers], seed)
        traffic.start()
        ledger = traffic.ledger
        wait_until(lambda: len(ledger.created) > 20 and ledger.completed, "the fleet")
        for number in range(rounds):
            primary: Node = cluster.primary
            what, strike = (("node", primary.kill), ("PostgreSQL", primary.kill_postgres))[number % 2]
            blow = _strike(fleet, traffic, number, f"{what} of {primary.name} killed", strike)
            tell(str(blow))
            if blow.accepted_sec > SERVING_SEC:
                wrong.append(f"{blow}; allowed are {SERVING_SEC:.0f} s")
            cluster.start()
            # Several leases of load between one blow and the next.
            before = len(ledger.created)
            wait_until(lambda before=before: len(ledger.created) > before + 20, "the load")
        wrong += ending(fleet, traffic, tell)
    return wrong
