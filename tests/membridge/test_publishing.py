"""`lease.json` in the bucket, for nodes that cannot reach the service."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer
from tests.membridge.conftest import StartPlane
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase, eventually

from bloom.blobs.errors import BlobUnavailable
from bloom.blobs.local import MemoryBlobs
from bloom.blobs.s3 import S3Blobs
from bloom.membridge.model import canonical_id_of
from bloom.membridge.service.publishing import LeasePublisher

CID = canonical_id_of("project")
LEASE = f"projects/{CID}/leadership/lease.json"
AUDIT = f"projects/{CID}/leadership/audit"


class Bucket(MemoryBlobs):
    """A store that counts what is written, fails on command, and waits on command."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.broken = False
        self.gate: asyncio.Event | None = None

    async def put(self, key: str, data: bytes | AsyncIterator[bytes], *, content_type: str | None = None) -> None:
        if self.broken:
            raise BlobUnavailable("The object store does not answer, or fails")
        self.written.append(key)
        await super().put(key, data, content_type=content_type)
        if self.gate is not None:
            await self.gate.wait()


class Published:
    """A control plane with a publisher of the test's own."""

    def __init__(self, plane: Membridge) -> None:
        self.plane = plane
        self.bucket = Bucket()
        self.publisher = LeasePublisher(plane.services.database, self.bucket)

    def publish(self) -> int:
        return self.plane.run(self.publisher.publish_due())

    def lease(self) -> dict[str, Any]:
        return json.loads(self.plane.run(self.bucket.get(LEASE)))

    def copies(self) -> list[dict[str, Any]]:
        found = self.plane.run(self.bucket.page(AUDIT, after=None, limit=100))
        return [json.loads(self.plane.run(self.bucket.get(each.key))) for each in found]


@pytest.fixture
def published(plane: Membridge) -> Published:
    return Published(plane)


def test_a_change_of_leadership_is_written_at_once_with_a_copy_that_stays(published: Published) -> None:
    plane = published.plane
    plane.heartbeat("a")
    assert published.publish() == 1
    assert published.lease() == plane.leadership()["lease"] and published.lease()["primary_node_id"] == "a"
    plane.heartbeat("b/../b")
    plane.select("b/../b", 60)
    assert published.publish() == 1
    assert published.lease() == plane.leadership()["lease"]
    assert (published.lease()["epoch"], published.lease()["policy"]) == (2, "primary_authoritative")
    assert [copy["epoch"] for copy in published.copies()] == [1, 2]
    assert all(key == LEASE or key.startswith(f"{AUDIT}/") for key in published.bucket.written)
    assert published.bucket.written[-1].endswith("Z-b_.._b.json")
    assert published.publish() == 0


def test_renewals_are_written_together_and_later(published: Published, database: FreshDatabase) -> None:
    published.plane.heartbeat("a")
    published.publish()
    before = published.lease()
    for _ in range(3):
        published.plane.heartbeat("a")
    assert published.publish() == 0
    due_in = database.value("select publish_due_at - now() from membridge.projects").total_seconds()
    assert 50 < due_in <= 60
    database.edit("update membridge.projects set publish_due_at = now()")
    assert published.publish() == 1
    assert published.lease()["expires_at"] > before["expires_at"] and len(published.copies()) == 1


def test_a_new_length_of_the_lease_is_written_at_once(published: Published) -> None:
    published.plane.heartbeat("a")
    published.publish()
    published.plane.select("a", 60)
    assert published.publish() == 1
    assert (published.lease()["lease_seconds"], published.lease()["epoch"]) == (60, 1)


def test_a_store_that_is_down_is_tried_again_until_all_is_there_and_the_log_is_not_flooded(
    published: Published, database: FreshDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    published.bucket.broken = True
    published.plane.heartbeat("a")
    published.plane.heartbeat("b")
    with caplog.at_level(logging.WARNING, "bloom.membridge"):
        for node in ("b", "a", "b"):
            published.plane.select(node)
            assert published.publish() == 0
    assert len(caplog.records) == 1
    published.plane.heartbeat("b")
    assert published.publish() == 0, "after a pause, whatever comes in between"
    database.edit("update membridge.projects set publish_due_at = now()")
    published.bucket.broken = False
    assert published.publish() == 1
    assert published.lease()["epoch"] == 4 and [copy["epoch"] for copy in published.copies()] == [1, 2, 3, 4]


def test_a_change_while_a_lease_is_written_is_written_afterwards_and_by_one_at_a_time(
    published: Published, start_plane: StartPlane
) -> None:
    plane, bucket = published.plane, published.bucket
    other = LeasePublisher(start_plane().services.database, bucket)
    plane.heartbeat("a")
    plane.heartbeat("b")
    bucket.gate = asyncio.Event()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(published.publish)
        eventually(lambda: bucket.written)
        plane.select("b")
        assert plane.run(other.publish_due()) == 0, "the first one still writes"
        plane.run(_set(bucket.gate))
        assert writing.result(5) == 2
    assert published.lease()["epoch"] == 2 and [copy["epoch"] for copy in published.copies()] == [1, 2]


def test_a_change_is_written_at_once_also_while_heartbeats_hold_the_project(
    published: Published, database: FreshDatabase
) -> None:
    published.plane.heartbeat("a")
    with ThreadPoolExecutor(1) as pool, database.connect(autocommit=False) as heartbeat:
        heartbeat.execute("select * from membridge.projects for no key update")
        writing = pool.submit(published.publish)
        database.wait_until_blocked(1)
        heartbeat.rollback()
        assert writing.result(5) == 1
    assert published.lease()["epoch"] == 1


def test_renewals_while_a_lease_is_written_do_not_have_it_written_again_and_again(
    published: Published, database: FreshDatabase
) -> None:
    plane, bucket = published.plane, published.bucket
    plane.heartbeat("a")
    bucket.gate = asyncio.Event()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(published.publish)
        eventually(lambda: bucket.written)
        plane.heartbeat("a")
        plane.run(_set(bucket.gate))
        assert writing.result(5) == 1
    due_in = database.value("select publish_due_at - now() from membridge.projects").total_seconds()
    assert 50 < due_in <= 60


def test_what_a_killed_process_had_begun_to_write_is_written_by_another(
    published: Published, database: FreshDatabase
) -> None:
    published.plane.heartbeat("a")
    database.edit("update membridge.projects set publishing_until = now() + interval '30 seconds'")
    assert published.publish() == 0
    database.edit("update membridge.projects set publishing_until = now() - interval '1 second'")
    assert published.publish() == 1 and published.lease()["epoch"] == 1


async def _set(gate: asyncio.Event) -> None:
    gate.set()


def test_the_service_writes_to_the_directory_of_the_settings_by_itself(start_plane: StartPlane, tmp_path: Path) -> None:
    first = start_plane(maintenance=True, BLOOM_SYNC_DIR=str(tmp_path))
    start_plane(maintenance=True, BLOOM_SYNC_DIR=str(tmp_path))
    first.until_listening()
    first.heartbeat("a")
    lease = tmp_path / LEASE
    eventually(lease.exists)
    assert json.loads(lease.read_text()) == first.leadership()["lease"]
    first.heartbeat("b")
    first.select("b")
    eventually(lambda: json.loads(lease.read_text())["epoch"] == 2)
    eventually(lambda: len(list((tmp_path / AUDIT).iterdir())) == 2)


@pytest.fixture
def endpoint() -> Generator[str]:
    """An S3 server on a free port of loopback."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_the_service_writes_to_the_bucket_of_the_settings(start_plane: StartPlane, endpoint: str) -> None:
    plane = start_plane(
        MINIO_ENDPOINT=endpoint, MINIO_BUCKET="memory", MINIO_ACCESS_KEY="AK", MINIO_SECRET_KEY="secret"
    )
    plane.heartbeat("a")
    assert plane.services.publisher is not None
    assert plane.run(plane.services.publisher.publish_due()) == 1
    bucket = S3Blobs(endpoint, "memory", access_key="AK", secret_key="secret")
    assert json.loads(plane.run(bucket.get(LEASE))) == plane.leadership()["lease"]
