"""The checker can fail: each invariant is broken by hand in tables that are sound, and `bloom db check` says so."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from tests.real_postgres import FreshDatabase, PostgresServer
from tests.real_runtime import Replica, StartReplica, told
from tests.runtime.invariants import check_invariants

from bloom.db.embedded import EmbeddedPostgres
from bloom.tasks.store.invariants import INVARIANTS, SHOWN, find_broken

LARGE = "0123456789abcde\n" * 70_000

# By invariant: what breaks it. The tables hold a task in each state, by its name, and workers w and x.
BREAKS: dict[str, list[LiteralString]] = {
    "artifact_has_its_result": ["delete from bloom.results where task_id = %(completed)s"],
    "success_has_its_artifact": ["update bloom.results set artifact_id = null where task_id = %(completed)s"],
    "completed_once": [
        """insert into bloom.results (id, task_id, lease_id, worker_id, artifact_id, status, metrics, digest)
           select 'second', task_id, 'second', worker_id, artifact_id, status, metrics, digest
           from bloom.results where task_id = %(completed)s"""
    ],
    "held_by_its_lease": [
        "update bloom.leases set status = 'expired', ended_at = now() where task_id = %(running)s and status = 'active'"
    ],
    "lease_is_its_own": ["update bloom.tasks set lease_id = 'nobody''s' where id = %(failed)s"],
    "queued_is_free": ["update bloom.tasks set lease_id = 'one' where id = %(queued)s"],
    "attempts_in_range": ["update bloom.tasks set attempts = 4 where id = %(completed)s"],
    "dead_after_all_attempts": ["update bloom.tasks set attempts = 0 where id = %(dead)s"],
    "cancel_of_held": ["update bloom.tasks set cancel_requested_at = now() where id = %(completed)s"],
    "waits_for_a_time": ["update bloom.tasks set due = false, run_at = now() where id = %(completed)s"],
    "lease_has_its_worker": ["delete from bloom.workers where id = 'w'"],
    "within_slots": [
        """update bloom.audit_log set detail = '{"status": "online", "slots": 1}'
           where action = 'worker_registered' and entity_id = 'w'"""
    ],
    "result_of_an_ended_lease": ["update bloom.results set worker_id = 'x' where task_id = %(failed)s"],
    "rejected_result_of_a_lost_lease": ["update bloom.rejected_results set worker_id = 'x'"],
    "state_is_audited": [
        """delete from bloom.audit_log where id = (select max(id) from bloom.audit_log where entity_id = %(failed)s)"""
    ],
    "no_task_is_lost": ["delete from bloom.tasks where id = %(queued)s"],
    "only_ended_tasks_are_pruned": [
        "delete from bloom.tasks where id = %(queued)s",
        """insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
           select 'tasks_pruned', 'retention', 'tasks', 'test', json_build_object('task_ids', array[%(queued)s::text])""",
    ],
    "audit_path_is_legal": [
        """insert into bloom.audit_log (action, entity_type, entity_id, actor)
           values ('task_requeued', 'task', %(completed)s, 'test')"""
    ],
    "lease_is_audited": [
        "delete from bloom.audit_log where action = 'task_leased' and entity_id = %(running)s",
    ],
    "events_of_a_lease_have_no_gap": ["update bloom.task_events set seq = 7 where seq = 2"],
    "events_of_a_task_have_no_gap": ["delete from bloom.task_events where id = 1"],
    "content_is_whole": ["delete from bloom.upload_chunks where n = 1"],
    "kept_upload_is_an_artifact": [
        "insert into bloom.uploads (id, task_id, kept) values ('nothing''s', %(completed)s, true)"
    ],
    "concurrency_key_runs_one": [
        "update bloom.tasks set status = 'running', lease_id = 'l', worker_id = 'w' where concurrency_key = 'key'"
    ],
    "concurrency_key_goes_on": [
        "update bloom.tasks set status = 'cancelled' where id = %(key first)s",
        "update bloom.tasks set turn = false where concurrency_key = 'key'",
    ],
}

# More ways to break the path of a task, each a story that the log must not tell. The log of `queued` ends with its creation.
FORBIDDEN: dict[str, tuple[str, list[tuple[str, dict[str, Any]]]]] = {
    "completed without a lease": ("queued", [("task_completed", {"status": "completed"})]),
    "granted twice": ("running", [("task_leased", {"lease_id": "other", "worker_id": "x", "attempt": 2})]),
    "completed twice": ("completed", [("task_completed", {"status": "completed", "lease_id": "other", "attempts": 1})]),
    "ended by a lease that it did not have": (
        "running",
        [("task_completed", {"status": "completed", "lease_id": "other", "attempts": 1})],
    ),
    "created twice": ("queued", [("task_created", {})]),
    "tried again after its last attempt": (
        "queued",
        [
            entry
            for n in (1, 2, 3)
            for entry in (
                ("task_leased", {"lease_id": f"l{n}", "worker_id": "x", "attempt": n}),
                ("task_retried", {"lease_id": f"l{n}", "attempts": n}),
            )
        ],
    ),
    "dead before its last attempt": (
        "queued",
        [
            ("task_leased", {"lease_id": "l1", "worker_id": "x", "attempt": 1}),
            ("task_dead", {"lease_id": "l1", "attempts": 1}),
        ],
    ),
    "an attempt that was not counted": ("queued", [("task_leased", {"lease_id": "l", "worker_id": "x", "attempt": 2})]),
    "completed though it was asked to end": (
        "asked",
        [("task_completed", {"status": "completed", "lease_id": "the lease of asked", "attempts": 1})],
    ),
    "requeued while it runs": ("running", [("task_requeued", {})]),
    "cancelled after its end": ("failed", [("task_cancelled", {})]),
}


@pytest.fixture(scope="module")
def story(postgres_server: PostgresServer) -> Iterator[tuple[FreshDatabase, dict[str, str]]]:
    """Tables that are sound, and the tasks in them by what became of them."""
    with postgres_server.database() as database, Replica(database.url) as runtime:
        yield database, tell(runtime, database)


def tell(runtime: Replica, database: FreshDatabase) -> dict[str, str]:
    runtime.register("w", slots=8)
    runtime.register("x", slots=8)
    tasks: dict[str, str] = {}

    def held(name: str, **fields: Any) -> tuple[str, str]:
        task, lease = runtime.leased("w", context_id=name, **fields)
        tasks[name] = task["id"]
        return task["id"], lease["id"]

    told(runtime.complete(*held("completed"), output="done"))
    told(runtime.complete(*held("large"), output=LARGE))
    told(runtime.fail(*held("failed")))
    told(runtime.fail(*held("dead", max_attempts=1), retryable=True))
    task, lease = held("asked")
    tasks["the lease of asked"] = lease
    told(runtime.post(f"/llm-tasks/{task}/cancel"))
    task, lease = held("running")
    events = [{"seq": n, "type": "text"} for n in (1, 2, 3)]
    told(runtime.post(f"/llm-tasks/{task}/events", {"lease_id": lease, "events": events}))
    task, lease = held("lost")
    database.expire(lease)
    assert runtime.reap() == [task]
    report = {"task_id": task, "lease_id": lease, "status": "success", "output": "late", "metrics": {"duration_ms": 1}}
    told(runtime.post("/workers/w/complete", {"completions": [report]}))
    assert database.value("select count(*) from bloom.rejected_results") == 1
    tasks["queued"] = runtime.create(context_id="queued")["id"]
    for name in ("key first", "key second"):
        tasks[name] = runtime.create(context_id=name, concurrency_key="key")["id"]
    check_invariants(database)
    return tasks


async def broken_by(database: FreshDatabase, statements: list[LiteralString], params: dict[str, str]) -> set[str]:
    """The invariants that do not hold after `statements`, of which nothing remains."""
    async with await psycopg.AsyncConnection[DictRow].connect(database.url, row_factory=dict_row) as connection:
        # What the schema itself forbids must be made possible first.
        await connection.execute("set local session_replication_role = replica")
        await connection.execute("alter table bloom.audit_log disable trigger append_only")
        await connection.execute("drop index bloom.tasks_one_held_per_concurrency_key")
        constraints = await connection.execute("""
            select conname from pg_constraint where conrelid = 'bloom.tasks'::regclass and contype = 'c'""")
        for row in await constraints.fetchall():
            await connection.execute(f'alter table bloom.tasks drop constraint "{row["conname"]}"'.encode())
        for statement in statements:
            assert (await connection.execute(statement, params)).rowcount > 0, statement
        found = [await find_broken(connection, name) for name in INVARIANTS]
        await connection.rollback()
    return {broken.invariant for broken in found if broken is not None}


def test_every_invariant_has_a_way_to_be_broken() -> None:
    assert BREAKS.keys() == INVARIANTS.keys()


@pytest.mark.parametrize("invariant", BREAKS)
def test_the_checker_names_the_invariant_that_is_broken(
    story: tuple[FreshDatabase, dict[str, str]], invariant: str
) -> None:
    database, tasks = story
    assert invariant in asyncio.run(broken_by(database, BREAKS[invariant], tasks))


@pytest.mark.parametrize("path", FORBIDDEN)
def test_the_checker_finds_a_path_that_the_state_machine_does_not_have(
    story: tuple[FreshDatabase, dict[str, str]], path: str
) -> None:
    database, tasks = story
    name, entries = FORBIDDEN[path]
    insert: LiteralString = """
        insert into bloom.audit_log (action, entity_type, entity_id, actor, detail)
        select e.action, 'task', %(task)s, 'test', e.detail
        from json_to_recordset(%(entries)s) as e(action text, detail json)"""
    told_of = [{"action": action, "detail": {k: tasks.get(v, v) for k, v in d.items()}} for action, d in entries]
    params = {"task": tasks[name], "entries": json.dumps(told_of)}
    assert "audit_path_is_legal" in asyncio.run(broken_by(database, [insert], params))


def test_slots_are_judged_by_what_the_worker_had_told_at_that_moment(
    start_replica: StartReplica, database: FreshDatabase
) -> None:
    runtime = start_replica()
    runtime.register("w", slots=3)
    for n in range(3):
        runtime.leased("w", context_id=str(n))
    runtime.register("w", slots=1)  # it holds three now, all granted before
    check_invariants(database)
    with database.unguarded():
        database.edit(
            "update bloom.audit_log set detail = json_build_object('slots', 2) where action = 'worker_registered'"
        )
    assert asyncio.run(broken_by(database, ["select 1"], {})) == {"within_slots"}


def run_check(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "bloom", "db", "check", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})


def test_db_check_tells_what_is_broken_where_and_how_often(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=8)
    tasks = [runtime.leased(context_id=str(n))[0]["id"] for n in range(SHOWN + 2)]
    sound = run_check(DATABASE_URL=database.url)
    assert sound.returncode == 0 and f"{len(INVARIANTS)} of {len(INVARIANTS)} invariants hold" in sound.stdout

    database.edit("update bloom.tasks set due = false, run_at = now()")
    before = database.dump()
    broken = run_check("--json", DATABASE_URL=database.url)
    answer = json.loads(broken.stdout)
    assert broken.returncode == 1 and answer["ok"] is False and answer["invariants"] == len(INVARIANTS)
    (found,) = answer["broken"]
    assert found["invariant"] == "waits_for_a_time" and found["says"] == INVARIANTS["waits_for_a_time"]
    assert found["rows"] == len(tasks) and found["ids"] == sorted(tasks)[:SHOWN]
    assert database.dump() == before
    for_people = run_check(DATABASE_URL=database.url)
    assert (
        for_people.returncode == 1 and f"waits_for_a_time: {len(tasks)} broken ({found['ids'][0]}" in for_people.stdout
    )


def test_db_check_works_while_others_write_and_changes_nothing_for_them(
    runtime: Replica, database: FreshDatabase
) -> None:
    """A writer that is in the middle of its transaction neither waits for the check nor shows in it."""
    runtime.register()
    runtime.leased()
    with database.connect(autocommit=False) as writer:
        writer.execute("update bloom.tasks set attempts = 9")
        assert run_check(DATABASE_URL=database.url).returncode == 0


def test_db_check_finds_the_embedded_database_whether_it_runs_or_not(made_database: Path, tmp_path: Path) -> None:
    place = tmp_path / "data"
    shutil.copytree(made_database, place)
    assert run_check(BLOOM_DATA_DIR=str(place)).returncode == 0
    with EmbeddedPostgres(place) as postgres:
        assert run_check(BLOOM_DATA_DIR=str(place)).returncode == 0
        assert postgres.reachable
    nothing = run_check("--json", BLOOM_DATA_DIR=str(tmp_path / "none"))
    assert nothing.returncode == 2 and "holds no database" in json.loads(nothing.stderr)["error"]
