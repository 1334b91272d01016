"""Tasks that ended long ago are pruned with all that belongs to them, and nothing else is."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, at_once, told
from tests.runtime.invariants import check_invariants

from bloom.base.settings import ServerSettings, load
from bloom.blobs.errors import BlobUnavailable
from bloom.blobs.local import DirectoryBlobs
from bloom.tasks.model import TaskStatus
from bloom.tasks.service import retention

CHILDREN = ("leases", "results", "rejected_results", "artifacts", "uploads", "upload_chunks", "task_events")
LARGE = "x" * (1024 * 1024 + 1)


def prune(api: Replica, days: int = 90) -> Mapping[TaskStatus, int]:
    return api.run(api.services.retention.prune(days, actor="test"))


def age(database: FreshDatabase, task_id: str, days: int) -> None:
    """Let all of the task have happened `days` days earlier, and a minute."""
    for statement in (
        """update bloom.tasks set updated_at = updated_at - make_interval(days => %(days)s, mins => 1)
           where id = %(id)s""",
        """update bloom.idempotency_keys set created_at = created_at - make_interval(days => %(days)s, mins => 1)
           where task_id = %(id)s""",
    ):
        database.edit(statement, id=task_id, days=days)


def lived(api: Replica, output: str = "done", **fields: Any) -> str:
    """A task with all that a life can leave behind: an event, a report that came too late, a retry, an artifact."""
    task, lost = api.leased(**fields)
    told(api.post(f"/llm-tasks/{task['id']}/events", {"lease_id": lost["id"], "events": [{"seq": 1, "type": "t"}]}))
    told(api.fail(task["id"], lost["id"], retryable=True, retry_after_sec=0))
    lease = api.lease(task["id"], "worker")
    told(api.complete(task["id"], lease["id"], output=output))
    return task["id"]


def left(database: FreshDatabase, table: str) -> int:
    """How many rows the table has."""
    return len(database.dump()[table])


def test_a_pruned_task_leaves_nothing_but_its_audit_entries(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=4)
    old, young = lived(runtime, LARGE, idempotency_key="k"), lived(runtime, LARGE)
    task, lease = runtime.leased()
    database.expire(lease["id"])
    runtime.reap()
    report = {
        "task_id": task["id"],
        "lease_id": lease["id"],
        "status": "success",
        "output": "late",
        "metrics": {"duration_ms": 1},
    }
    told(runtime.post("/workers/worker/complete", {"completions": [report]}))
    told(runtime.post(f"/llm-tasks/{task['id']}/cancel"))
    for gone in (old, task["id"]):
        age(database, gone, 90)
    age(database, young, 89)
    audit = database.rows("select id, entity_id, action, detail from bloom.audit_log order by id")
    before = {table: left(database, table) for table in CHILDREN}

    assert prune(runtime) == {TaskStatus.COMPLETED: 1, TaskStatus.CANCELLED: 1}

    assert [row["id"] for row in database.rows("select id from bloom.tasks")] == [young]
    # Two of three leases and runs, and the one report that came too late, were of the pruned ones.
    assert {table: before[table] - left(database, table) for table in CHILDREN} == {
        "leases": 3, "results": 2, "rejected_results": 1, "artifacts": 1, "uploads": 1, "upload_chunks": 3, "task_events": 1,
    }  # fmt: skip
    assert left(database, "idempotency_keys") == 0
    *kept, told_of_it = database.rows("select id, entity_id, action, detail from bloom.audit_log order by id")
    assert kept == audit
    assert told_of_it["action"] == "tasks_pruned" and told_of_it["detail"] == {
        "older_than_days": 90, "count": 2, "task_ids": sorted([old, task["id"]]),
    }  # fmt: skip
    assert told(runtime.get("/stats"))["tasks"]["total"] == 1 == told(runtime.get("/stats"))["leases"]["total"] - 1
    assert told(runtime.get(f"/llm-tasks/{young}/results"))
    check_invariants(database)
    assert prune(runtime) == {} and left(database, "audit_log") == len(audit) + 1


def test_what_has_not_ended_or_is_stood_for_by_a_key_stays_however_old(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register(slots=9)
    queued, later = runtime.create()["id"], runtime.create(run_at=4_000_000_000_000)["id"]
    held, _ = runtime.leased()
    running, lease = runtime.leased()
    told(runtime.heartbeat(running["id"], lease["id"]))
    keyed = lived(runtime, idempotency_key="k")
    for task_id in (queued, later, held["id"], running["id"], keyed):
        age(database, task_id, 400)
    database.edit("update bloom.idempotency_keys set created_at = now() - interval '6 days 23 hours'")
    before = database.dump()
    assert prune(runtime, days=1) == {}
    assert database.dump() == before
    database.edit("update bloom.idempotency_keys set created_at = now() - interval '7 days 1 minute'")
    assert prune(runtime, days=1) == {TaskStatus.COMPLETED: 1}


def fill(database: FreshDatabase, count: int) -> None:
    """Tasks that failed 100 days ago, without anything else."""
    database.edit(
        """insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status, updated_at)
           select 't' || n, 'c', 'a', 'p', 1, 0, 'text', 'failed', now() - interval '100 days' + n * interval '1 second'
           from generate_series(1, %(count)s) n""",
        count=count,
    )


def test_replicas_share_the_work_and_wait_for_nobody(start_replica: StartReplica, database: FreshDatabase) -> None:
    replicas = [start_replica() for _ in range(2)]
    fill(database, 1000)
    with database.connect(autocommit=False) as somebody:
        somebody.execute("select 1 from bloom.tasks where id = 't500' for update")
        shares = at_once(2, lambda number: prune(replicas[number]))
    assert sum(share.get(TaskStatus.FAILED, 0) for share in shares) == 999
    batches = database.rows("select detail from bloom.audit_log")
    assert sum(batch["detail"]["count"] for batch in batches) == 999
    assert all(batch["detail"]["count"] <= retention.MOST_TASKS for batch in batches)
    assert prune(replicas[0]) == {TaskStatus.FAILED: 1}


def test_tasks_with_many_events_are_pruned_in_smaller_batches(runtime: Replica, database: FreshDatabase) -> None:
    fill(database, 6)
    database.edit("""
        insert into bloom.task_events (task_id, id, lease_id, seq, type, data)
        select 't' || t, e, 'l' || t, e, 't', '{}' from generate_series(1, 6) t, generate_series(1, 10) e""")
    with patch.object(retention, "MOST_ROWS", 25):
        assert prune(runtime) == {TaskStatus.FAILED: 6}
    counts = [row["n"] for row in database.rows("select (detail ->> 'count')::int n from bloom.audit_log order by id")]
    assert counts == [2, 2, 2] and left(database, "task_events") == 0


def test_objects_go_after_the_rows_and_are_not_forgotten_while_the_store_is_away(
    start_replica: StartReplica, database: FreshDatabase, tmp_path: Path
) -> None:
    api = start_replica(BLOOM_BLOB_DIR=str(tmp_path))
    api.register(slots=2)
    old, young = lived(api), lived(api)
    age(database, old, 90)
    objects = lambda: {path.parent.name for path in tmp_path.rglob("artifacts/*/*") if path.is_file()}  # noqa: E731
    assert objects() == {old, young}
    with patch.object(DirectoryBlobs, "delete", side_effect=BlobUnavailable("away")):
        assert prune(api) == {TaskStatus.COMPLETED: 1}
    assert objects() == {old, young} and left(database, "pruned_objects") == 1
    assert api.run(api.services.artifacts.delete_pruned()) == 1
    assert objects() == {young} and left(database, "pruned_objects") == 0
    check_invariants(database)


def command(database: FreshDatabase, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bloom", "db", "prune", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DATABASE_URL": database.url, **environment},
    )


def test_a_prune_that_is_killed_leaves_whole_tasks(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=2)
    task = lived(runtime)
    age(database, task, 100)
    fill(database, retention.MOST_TASKS)
    before = database.dump()
    with database.audit_closed(), command(database) as process:
        database.wait_until_blocked()
        process.kill()
        process.wait()
        eventually(lambda: not database.blocked() or _cancelled(database), what="the end of its transaction")
    assert database.dump() == before
    assert sum(prune(runtime).values()) == retention.MOST_TASKS + 1
    check_invariants(database)


def _cancelled(database: FreshDatabase) -> bool:
    """PostgreSQL notices the death of a client only when it answers it: help it along."""
    return bool(database.rows("select pg_terminate_backend(pid) from pg_stat_activity where wait_event_type = 'Lock'"))


def test_the_command_tells_what_it_would_do_and_then_does_it(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=2)
    task = lived(runtime, "twelve bytes", prompt="four")
    age(database, task, 30)
    before = database.dump()
    with command(database, "--dry-run", "--older-than", "30", "--json") as process:
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and database.dump() == before
    amount = {"tasks": 1, "artifacts": 1, "database_bytes": 4 + 12 + 2, "store_bytes": 0}
    assert json.loads(said) == {"older_than_days": 30, "dry_run": True, "by_state": {"completed": amount}}

    with command(database, BLOOM_RETENTION_DAYS="31") as process:
        said, _ = process.communicate(timeout=30)
    assert "no task" in said and database.dump() == before
    with command(database, "--json", BLOOM_RETENTION_DAYS="30") as process:
        said, _ = process.communicate(timeout=30)
    assert json.loads(said)["by_state"] == {"completed": {"tasks": 1}}
    assert database.value("select actor from bloom.audit_log where action = 'tasks_pruned'").startswith("cli:")
    with command(database, BLOOM_RETENTION_DAYS="0") as process:
        _, complaint = process.communicate(timeout=30)
    assert process.returncode == 2 and "--older-than" in complaint


@pytest.mark.parametrize(("days", "stays"), [("0", True), ("101", True), ("90", False)])
def test_a_serving_runtime_prunes_by_itself_unless_told_to_keep_all(
    start_replica: StartReplica, database: FreshDatabase, days: str, stays: bool
) -> None:
    fill(database, 3)
    api = start_replica(maintenance=True, BLOOM_RETENTION_DAYS=days)
    if stays:
        api.run(api.services.artifacts.delete_pruned())
        told(api.get("/stats"))
    else:
        eventually(lambda: left(database, "tasks") == 0)
    assert left(database, "tasks") == (3 if stays else 0)


def test_retention_is_90_days_unless_said_otherwise() -> None:
    assert load(ServerSettings).retention_days == 90
