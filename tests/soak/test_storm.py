"""The short form of the crash storm (`make soak` is the long one): every kind of blow once, and then the same look."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, told
from tests.soak.fleet import Fleet
from tests.soak.storm import run_storm, verdict
from tests.soak.traffic import Ledger

SECONDS = 8


@pytest.mark.timeout(240)
def test_nothing_acknowledged_is_lost_and_nothing_is_half_done_after_a_storm(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    lines: list[str] = []
    wrong = run_storm(tmp_path, seconds=SECONDS, seed=seed, between_sec=0.8, tell=lines.append)
    assert wrong == [], "\n".join([*wrong, *lines])


def test_the_storm_can_tell_what_is_lost(runtime: Replica, database: FreshDatabase) -> None:
    """By what was acknowledged, each kind of loss that the tables alone do not show."""
    runtime.register()
    body = {"context_id": "c", "agent_slug": "a", "prompt": "p"}
    task = told(runtime.post("/llm-tasks", body, **{"Idempotency-Key": "k"}), 201)["id"]
    lease = runtime.lease(task, "worker")["id"]
    told(runtime.complete(task, lease))

    def query(question: str) -> list[Any]:
        with psycopg.connect(database.url) as connection:
            return connection.execute(question.encode()).fetchall()

    fleet = cast(Fleet, SimpleNamespace(url=database.url, query=query))
    assert verdict(fleet, Ledger(created={"k": task}, completed={lease: task})) == []
    assert any("is lost" in line for line in verdict(fleet, Ledger(created={"k": task, "l": "none"})))
    assert any("stands for" in line for line in verdict(fleet, Ledger(created={"other key": task})))
    assert any("never acknowledged" in line for line in verdict(fleet, Ledger()))
    lost = Ledger(created={"k": task}, completed={"another lease": task})
    assert any("completion" in line for line in verdict(fleet, lost))
    database.edit("update bloom.tasks set due = false, run_at = now()")
    assert any("waits_for_a_time" in line for line in verdict(fleet, Ledger(created={"k": task})))
