"""A backup that is taken while a fleet works, restored on an empty machine, where the fleet goes on."""

import json
import threading
from pathlib import Path

from tests.backup.running import PASSPHRASE, Bloom
from tests.real_postgres import PATIENCE_SEC, FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, told
from tests.real_worker import real_worker

from bloom.db.embedded import EmbeddedPostgres

BEFORE = 60


class Load:
    """Tasks that are made and done without a pause, until the end of the block."""

    def __init__(self, runtime: Replica) -> None:
        self._runtime = runtime
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(f"w{n}",)) for n in range(2)]
        self.done = 0

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.done >= BEFORE, what="the load", within_sec=PATIENCE_SEC * 4)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE_SEC)

    def _work(self, worker: str) -> None:
        number = 0
        self._runtime.register(worker, slots=4)
        while not self._ending.is_set():
            for _ in range(2):
                self._runtime.create(context_id=worker)
            number += 1
            for each in self._runtime.claim(worker, f"{number}", 1):
                output = f"Hello {number} 🌱.\t\\N\n" * number
                told(self._runtime.complete(each["task"]["id"], each["lease"]["id"], output=output))
                self.done += 1


def test_a_backup_under_load_is_restored_on_an_empty_machine_where_the_fleet_runs_on(
    start_replica: StartReplica, database: FreshDatabase, bloom: Bloom, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "secret.key").write_text("5ecr3t\n")
    runtime = start_replica(BLOOM_BLOB_DIR=str(tmp_path / "objects"))
    settings = {"BLOOM_BACKUP_PASSPHRASE": PASSPHRASE}
    with Load(runtime) as load:
        made = bloom(
            "backup",
            "create",
            "--json",
            DATABASE_URL=database.url,
            BLOOM_BLOB_DIR=str(tmp_path / "objects"),
            **settings,
        )
        assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)
    assert said["tables"]["bloom.tasks"] >= BEFORE and said["objects"] >= BEFORE and said["missing_objects"] == 0
    assert load.done >= said["objects"]
    archive = Path(said["archive"])
    assert archive.stat().st_mode & 0o077 == 0
    content = archive.read_bytes()
    assert b"Hello" not in content and b"5ecr3t" not in content and PASSPHRASE.encode() not in content

    settings |= {"BLOOM_DATA_DIR": str(there), "BLOOM_BLOB_DIR": str(tmp_path / "other objects")}
    restored = bloom("backup", "restore", archive, "--json", **settings)
    assert restored.exit_code == 0, restored.output
    assert json.loads(restored.stdout)["ok"] is True
    assert (there / "secret.key").read_text() == "5ecr3t\n"
    assert bloom("db", "check", **settings).exit_code == 0
    assert bloom("audit", "verify", **settings).exit_code == 0

    with EmbeddedPostgres(there) as postgres, Replica(postgres.start(), maintenance=True, **settings) as runtime:
        artifacts = told(runtime.get("/artifacts", limit=1000))
        assert len(artifacts) == said["objects"] and all(each["url"].startswith("file://") for each in artifacts)
        read = {runtime.get(f"/artifacts/{each['id']}/content").text for each in artifacts[:20]}
        assert all(text.startswith("Hello") for text in read)
        newest = told(runtime.get("/llm-tasks", limit=1))[0]
        task = runtime.create(prompt="on and on")
        assert told(runtime.get("/llm-tasks", limit=1))[0]["id"] == task["id"] != newest["id"]
        queued = told(runtime.get("/llm-tasks", status="queued", limit=1000))
        waiting = next(each["id"] for each in reversed(queued) if each["id"] != task["id"])
        with real_worker(runtime.url, tmp_path / "worker", slots=4) as worker:
            worker.until(lambda: runtime.task(waiting)["status"] == "completed", "a task that waited in the archive")
    assert bloom("db", "check", **settings).exit_code == 0
    assert bloom("audit", "verify", **settings).exit_code == 0
