"""A copy of the predecessor's database is taken over, whatever state its last crash left it in."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.predecessor.importing import Importing
from tests.predecessor.tables import START_MS, Predecessor
from tests.real_postgres import FreshDatabase
from tests.real_runtime import StartReplica, told
from tests.runtime.invariants import check_invariants

from bloom.upstream.sealing import Sealer

KEY = "canary-admin-key-5d2f"


def problems(report: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """What was not taken as it was."""
    return {(each["table"], each["says"].partition(":")[0]): sorted(each["ids"]) for each in report["problems"]}


def fill(old: Predecessor) -> None:
    """All states that tasks can be in, whole and half-written."""
    old.worker("vps")
    old.worker("pi", capabilities={"max_concurrency": 99}, status="offline")
    old.done("done")
    for n in range(3):
        old.lease("retried", "expired", worker_id="pi" if n else "vps")
    old.result("retried", worker_id="pi")
    old.task("retried", attempts=2)
    old.result("failed", worker_id="vps")
    old.task("failed", "failed", attempts=1, lease_id=old.lease("failed", "failed"), worker_id="vps")
    for _ in range(5):
        old.lease("dead", "expired")
    old.task("dead", "dead", attempts=3)
    old.task("fresh")
    # What a kill of the predecessor left, and what its races did.
    old.task("leased", "leased", attempts=3, lease_id=old.lease("leased", "active"), worker_id="vps")
    old.task("running for ever", "running", attempts=1, worker_id="gone")
    old.task("queued with a lease", attempts=1)
    old.lease("queued with a lease", "active")
    old.task("artifact alone", "running", attempts=1, lease_id=old.lease("artifact alone", "active"), worker_id="vps")
    old.artifact("artifact alone")
    old.task("result whole", "running", attempts=1, lease_id=old.lease("result whole", "active"), worker_id="vps")
    old.result("result whole", old.artifact("result whole"))
    old.task("no result", "completed", attempts=1, lease_id=old.lease("no result"), worker_id="vps")
    old.artifact("no result")
    old.task("nothing", "completed", attempts=1)
    old.task("no lease", "completed", attempts=2, worker_id="vps")
    old.result("no lease", old.artifact("no lease"))
    for n in range(20):
        old.result("many results", old.artifact("many results", f"copy-{n:02}"), worker_id=f"w{n}")
        old.lease("many results", worker_id=f"w{n}")
    old.task("many results", "completed", attempts=3)
    old.task("strange", "paused")
    old.lease("of nothing", "active", lease_id="lease of nothing")
    old.insert("audit_logs", id="a1", timestamp=START_MS, action="task_created", entity_type="task", entity_id="done",
               actor="admin", detail={"x": 1})  # fmt: skip


@pytest.mark.parametrize("json_type", ["jsonb", "text"])
def test_it_is_taken_over_once_however_often_and_the_source_stays(
    database: FreshDatabase, importing: Importing, json_type: str
) -> None:
    old = Predecessor(database, json_type)
    fill(old)
    source, empty = old.dump(), database.dump()

    would = importing("--dry-run")
    assert database.dump() == empty
    first = importing()
    taken = database.dump()
    check_invariants(database)
    assert (would["tables"], would["problems"]) == (first["tables"], first["problems"])
    second = importing()
    assert database.dump() == taken and old.dump() == source
    assert second["tables"]["llm_tasks"] == {"found": 15, "taken": 0, "there": 14}

    states = {row["id"]: row["status"] for row in database.rows("select id, status from bloom.tasks")}
    assert states == {
        "done": "completed", "retried": "queued", "failed": "failed", "dead": "dead", "fresh": "queued",
        "leased": "queued", "running for ever": "queued", "queued with a lease": "queued", "artifact alone": "queued",
        "result whole": "completed", "no result": "completed", "nothing": "queued", "no lease": "completed",
        "many results": "completed",
    }  # fmt: skip
    done = database.row("select * from bloom.tasks where id = 'done'")
    assert done["prompt"] == "Do done." and done["timeout_sec"] == 60 and done["context_hints"] == ["a"]
    assert done["created_at"].timestamp() * 1000 > START_MS
    artifact = database.row("select * from bloom.artifacts where id = 'artifact-done'")
    assert (artifact["content"], artifact["tags"]) == ("Done done.", ["t"])
    assert database.value("select count(*) from bloom.leases where task_id = 'dead'") == 5
    assert database.value("select attempts from bloom.tasks where id = 'leased'") == 2
    assert database.value("select max_concurrency from bloom.workers where id = 'pi'") == 32
    entry = database.row("select * from bloom.audit_log where action = 'predecessor_entry'")
    assert entry["entity_id"] == "done" and entry["detail"]["id"] == "a1" and entry["actor"] == "admin"
    found = problems(first)
    assert found["llm_tasks", "not taken"] == ["strange"]
    assert found["runtime_artifacts", "not taken"][0] == "artifact-artifact alone"
    assert found["leases", "not taken"] == ["lease of nothing"]
    assert ("llm_results", "not taken") in found


def test_the_fleet_goes_on_with_what_was_taken_over(
    database: FreshDatabase, importing: Importing, predecessor: Predecessor, start_replica: StartReplica
) -> None:
    fill(predecessor)
    long = "Grüße 🌱\n" * 200_000
    predecessor.done("long", content=long)
    importing()
    runtime = start_replica()
    assert told(runtime.get("/stats"))["tasks"]["by_status"]["queued"] == 7
    assert runtime.get("/artifacts/artifact-long/content").text == long
    runtime.register("vps", slots=8)
    granted = runtime.claim("vps", "1", 8)
    assert {each["task"]["id"] for each in granted} >= {"fresh", "leased", "running for ever"}
    for each in granted:
        told(runtime.complete(each["task"]["id"], each["lease"]["id"]))
    told(runtime.post("/llm-tasks/failed/requeue"))
    check_invariants(database)
    # Tasks that have ended here, and one that was pruned here, do not come back.
    database.edit("update bloom.tasks set updated_at = now() - interval '100 days' where id = 'done'")
    runtime.run(runtime.services.retention.prune(90, actor="test", progress=lambda _: None))
    before = database.dump()
    importing()
    assert database.dump() == before
    check_invariants(database)


def test_outputs_in_the_object_store_stay_there(
    database: FreshDatabase, importing: Importing, predecessor: Predecessor, start_replica: StartReplica, tmp_path: Path
) -> None:
    objects = tmp_path / "objects"
    (objects / "artifacts" / "there").mkdir(parents=True)
    (objects / "artifacts" / "there" / "1").write_text("In the store.")
    url = "minio://bloom-artifacts/artifacts"
    predecessor.done("there", content=None, url=f"{url}/there/1")
    predecessor.done("gone", content=None, url=f"{url}/gone/1")
    refused = importing()
    assert refused["code"] == "configuration" and "MINIO_ENDPOINT" in refused["error"]
    elsewhere = importing(BLOOM_BLOB_DIR=str(objects), MINIO_ARTIFACT_BUCKET="another")
    assert "MINIO_ARTIFACT_BUCKET=bloom-artifacts" in elsewhere["error"]
    assert database.value("select count(*) from bloom.tasks") == 0

    report = importing(BLOOM_BLOB_DIR=str(objects))
    assert problems(report)["runtime_artifacts", "its object is not in the store"] == ["artifact-gone"]
    check_invariants(database)
    row = database.row("select * from bloom.artifacts where task_id = 'there'")
    assert (row["place"], row["object_key"], row["size_bytes"]) == ("store", "artifacts/there/1", 13)
    assert row["sha256"] == hashlib.sha256(b"In the store.").hexdigest()
    runtime = start_replica(BLOOM_BLOB_DIR=str(objects))
    assert runtime.get("/artifacts/artifact-there/content").text == "In the store."
    assert runtime.get("/artifacts/artifact-gone/content").text == "Done gone."


def test_the_admin_key_is_sealed_and_told_nowhere(
    database: FreshDatabase, importing: Importing, predecessor: Predecessor, tmp_path: Path
) -> None:
    predecessor.insert("runtime_settings", key="membridge_server_url", value="https://membridge.example.org/")
    predecessor.insert("runtime_settings", key="membridge_admin_key", value=KEY)
    predecessor.insert("runtime_settings", key="theme", value="dark")
    said = str(importing("--dry-run")) + str(importing())
    assert KEY not in said and "theme" in said and "dark" not in said
    saved = database.row("select url, admin_key from bloom.membridge_connection")
    assert saved["url"] == "https://membridge.example.org" and KEY.encode() not in saved["admin_key"]
    assert Sealer(tmp_path, None).unseal(saved["admin_key"], "https://membridge.example.org:443") == KEY
    assert KEY not in str(database.dump())
    before = database.dump()
    importing()
    assert database.dump() == before


def test_a_database_without_the_predecessor_is_told(importing: Importing) -> None:
    assert "llm_tasks" in importing()["error"]


def test_what_it_cannot_store_and_what_is_missing_does_no_harm(database: FreshDatabase, importing: Importing) -> None:
    database.edit(
        "create table public.llm_tasks (id text, status text, prompt text, context_hints json, attempts text)"
    )
    database.edit("create table public.leases (room text)")
    database.edit("""insert into public.llm_tasks values
        ('a', 'queued', 'p', '["x\\u0000y", "\\ud800", 3]', 'many'), ('b', 'dead', 'p', null, '-4'),
        ('', 'queued', 'p', null, null), ('c', 'queued', null, null, null)""")  # fmt: skip
    report = importing()
    check_invariants(database)
    assert database.value("select context_hints from bloom.tasks where id = 'a'") == ["xy", "?"]
    assert ("leases", "not read") in problems(report)
    assert report["tables"]["llm_tasks"] == {"found": 4, "taken": 2, "there": 0}
