"""Artifacts in an object store: what goes there, how it is read, and what happens while the store is down."""

import itertools
import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from tests.blobs.blob_servers import S3Server, free_port
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, at_once, refused, told
from tests.runtime.invariants import check_invariants

from bloom.artifacts import service as artifact_service

SECRET = "the-secret-of-the-store"
TEXT = "Grüße 🌱\n" * 20_000


@pytest.fixture(scope="module")
def server() -> Generator[S3Server]:
    """An S3 server that can be stopped and started again with what it holds."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server(free_port())
    server.start()
    yield server
    server.stop()


@dataclass
class Bucket:
    """A bucket of the test's own."""

    server: S3Server
    name: str = field(default_factory=lambda: f"outputs-{next(_numbers)}")

    def keys(self) -> list[str]:
        """The keys of all objects in it."""
        return re.findall(r"<Key>([^<]+)</Key>", httpx.get(f"{self.server.endpoint}/{self.name}?list-type=2").text)

    @contextmanager
    def down(self) -> Generator[None]:
        """The server is down within."""
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()


_numbers = itertools.count(1)


@pytest.fixture
def bucket(server: S3Server) -> Bucket:
    return Bucket(server)


@pytest.fixture
def stored(start_replica: StartReplica, bucket: Bucket) -> Replica:
    """A runtime that keeps outputs in the bucket, which it makes, with a worker."""
    runtime = start_replica(
        MINIO_ENDPOINT=bucket.server.endpoint,
        MINIO_ACCESS_KEY="AKTEST",
        MINIO_SECRET_KEY=SECRET,
        MINIO_ARTIFACT_BUCKET=bucket.name,
    )
    runtime.register(slots=32)
    return runtime


@pytest.mark.parametrize("output", ["", "Hello.", TEXT, TEXT * 20], ids=["empty", "short", "long", "very long"])
def test_an_output_goes_to_the_store_and_is_read_from_there(
    stored: Replica, bucket: Bucket, database: FreshDatabase, output: str
) -> None:
    task, lease = stored.leased()
    done = told(stored.complete(task["id"], lease["id"], output=output))
    artifact = done["artifact"]
    key = f"artifacts/{task['id']}/{artifact['id']}"
    assert artifact["url"] == f"minio://{bucket.name}/{key}" and artifact["content"] is None
    assert bucket.keys() == [key]
    (listed,) = told(stored.get("/artifacts", task_id=task["id"]))
    assert listed["url"] == artifact["url"] and listed["content"] is None
    assert stored.get(f"/artifacts/{artifact['id']}/content").content == output.encode()
    assert output.startswith(done["result"]["output"])

    link = told(stored.get(f"/artifacts/{artifact['id']}/url"))
    assert SECRET not in link["url"]
    assert httpx.get(link["url"]).content == output.encode()
    check_invariants(database)


def test_while_the_store_is_down_outputs_stay_in_the_database_and_move_when_it_is_back(
    stored: Replica, bucket: Bucket, database: FreshDatabase
) -> None:
    outputs = {"short": "Hello.", "long": TEXT, "very long": TEXT * 20}
    artifacts: dict[str, str] = {}

    def read() -> dict[str, bytes]:
        return {
            name: stored.get(f"/artifacts/{artifact_id}/content").content for name, artifact_id in artifacts.items()
        }

    with bucket.down():
        for name, output in outputs.items():
            task, lease = stored.leased(context_id=name)
            artifact = told(stored.complete(task["id"], lease["id"], output=output))["artifact"]
            assert artifact["url"] is None
            assert artifact["content"] == (None if name == "very long" else output)
            artifacts[name] = artifact["id"]
            assert refused(stored.get(f"/artifacts/{artifact['id']}/url"), 409) == "not_in_object_store"
        assert stored.run(stored.services.artifacts.move_to_store()) == 0
        assert read() == {name: output.encode() for name, output in outputs.items()}
        check_invariants(database)

    assert stored.run(stored.services.artifacts.move_to_store()) == len(outputs)
    assert stored.run(stored.services.artifacts.move_to_store()) == 0
    assert len(bucket.keys()) == len(outputs)
    assert read() == {name: output.encode() for name, output in outputs.items()}
    for artifact in told(stored.get("/artifacts")):
        assert artifact["url"].startswith(f"minio://{bucket.name}/artifacts/") and artifact["content"] is None
        (result,) = told(stored.get(f"/llm-tasks/{artifact['task_id']}/results"))
        assert result["output"] and result.get("truncated", False) is (artifact["size_bytes"] > 64 * 1024)
    assert database.value("select count(*) from bloom.upload_chunks") == 0
    check_invariants(database)


def test_however_many_outputs_waited_for_the_store_they_are_moved_in_one_go(
    stored: Replica, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_service, "MOVE_BATCH", 2)
    with bucket.down():
        for number in range(5):
            task, lease = stored.leased(context_id=str(number))
            told(stored.complete(task["id"], lease["id"]))
    assert stored.run(stored.services.artifacts.move_to_store()) == 5
    assert len(bucket.keys()) == 5


def test_an_output_in_a_store_that_is_down_is_an_error_of_the_store(stored: Replica, bucket: Bucket) -> None:
    task, _ = stored.leased()
    artifact = told(stored.complete(task["id"]))["artifact"]
    with bucket.down():
        answer = stored.get(f"/artifacts/{artifact['id']}/content")
    assert answer.status_code in (502, 503) and SECRET not in answer.text and "127.0.0.1" not in answer.text
    assert told(stored.get(f"/artifacts/{artifact['id']}"))["url"] == artifact["url"]


def test_completions_that_are_refused_or_repeated_leave_no_object_behind(
    stored: Replica, bucket: Bucket, database: FreshDatabase
) -> None:
    task, lease = stored.leased()
    answers = at_once(8, lambda n: stored.complete(task["id"], lease["id"], output=f"output {n % 2}"))
    assert {answer.status_code for answer in answers} == {200, 409}
    handed_back, _ = stored.leased(context_id="back")
    told(stored.complete(handed_back["id"], hand_back=True))
    cancelled, _ = stored.leased(context_id="cancelled")
    told(stored.post(f"/llm-tasks/{cancelled['id']}/cancel"))
    assert refused(stored.complete(cancelled["id"]), 409) == "cancelled"
    assert refused(stored.complete("nowhere"), 404) == "task_not_found"
    (artifact,) = told(stored.get("/artifacts"))
    assert bucket.keys() == [f"artifacts/{task['id']}/{artifact['id']}"]
    assert stored.get(f"/artifacts/{artifact['id']}/content").status_code == 200
    check_invariants(database)
