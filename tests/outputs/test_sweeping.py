"""What nobody completed goes away again, and nothing else does."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.outputs.conftest import Held
from tests.outputs.uploads import downloaded, named, put
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, told
from tests.runtime.invariants import check_invariants

from bloom.base.ids import made_at, new_artifact_id

MIB = 1024 * 1024
TWO_HOURS_SEC = 2 * 3600


def age(database: FreshDatabase) -> None:
    """Let all uploads have had their last piece two hours ago."""
    database.edit("update bloom.uploads set updated_at = now() - interval '2 hours'")


def sweep(runtime: Replica) -> int:
    return runtime.run(runtime.services.uploading.sweep())


def sweep_store(runtime: Replica) -> int:
    return runtime.run(runtime.services.artifacts.sweep_store())


def id_of_two_hours_ago() -> str:
    milliseconds = int((time.time() - TWO_HOURS_SEC) * 1000)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 0b10 << 62 | uuid4().int & (1 << 62) - 1))


def test_an_upload_whose_lease_has_ended_goes_away_after_an_hour(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    told(put(runtime, lease, 0, b"x" * MIB))
    age(database)
    assert sweep(runtime) == 0, "its lease is active"
    told(runtime.complete(task["id"], lease["id"], output="something else"))
    database.edit("update bloom.uploads set updated_at = now()")
    assert sweep(runtime) == 0, "it is fresh"
    age(database)
    assert sweep(runtime) == 1
    assert database.value("select count(*) from bloom.upload_chunks") == 0
    check_invariants(database)


def test_an_upload_that_became_an_artifact_stays(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, lease = held
    output = b"0123456789abcdef" * (2 * MIB // 16)
    up = told(put(runtime, lease, 0, output))
    told(runtime.complete(task["id"], lease["id"], **named(output, up["output_ref"])))
    other, other_lease = runtime.leased()
    sent = told(runtime.complete(other["id"], other_lease["id"], output="y" * (2 * MIB)))
    age(database)
    assert sweep(runtime) == 0
    assert downloaded(runtime, up["output_ref"]) == output
    assert downloaded(runtime, sent["artifact"]["id"]) == b"y" * (2 * MIB)
    check_invariants(database)


def test_the_uploads_of_a_lost_lease_go_and_those_of_the_next_stay(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, stale = held
    told(put(runtime, stale, 0, b"stale"))
    database.expire(stale["id"])
    runtime.reap()
    fresh = runtime.lease(task["id"])
    up = told(put(runtime, fresh, 0, b"fresh"))
    age(database)
    assert sweep(runtime) == 1
    told(runtime.complete(task["id"], fresh["id"], **named(b"fresh", up["output_ref"])))


@pytest.fixture
def stored(start_replica: StartReplica, tmp_path: Path) -> tuple[Replica, Path]:
    """A runtime whose outputs go into a directory, and that directory."""
    directory = tmp_path / "blobs"
    runtime = start_replica(BLOOM_BLOB_DIR=str(directory))
    runtime.register()
    return runtime, directory


def place(directory: Path, task_id: str, artifact_id: str, *, old: bool = True) -> Path:
    """An object that a completion would have stored, two hours ago if it is `old`."""
    path = directory / "artifacts" / task_id / artifact_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("output")
    make_old(path, old=old)
    return path


def make_old(path: Path, *, old: bool = True) -> None:
    moment = time.time() - TWO_HOURS_SEC * old
    os.utime(path, (moment, moment))


def test_objects_of_our_tasks_that_no_artifact_knows_go_away_after_an_hour(stored: tuple[Replica, Path]) -> None:
    runtime, directory = stored
    task, lease = runtime.leased()
    done = told(runtime.complete(task["id"], lease["id"], output="kept"))
    assert done["artifact"]["url"]
    of_artifact = directory / "artifacts" / task["id"] / done["artifact"]["id"]
    make_old(of_artifact)
    orphan = place(directory, task["id"], id_of_two_hours_ago())
    kept = [
        of_artifact,
        place(directory, task["id"], id_of_two_hours_ago(), old=False),
        place(directory, task["id"], new_artifact_id()),
        place(directory, "a-task-of-another-installation", id_of_two_hours_ago()),
        place(directory, task["id"], "no-id-of-ours"),
    ]
    assert sweep_store(runtime) == 1
    assert not orphan.exists() and all(path.exists() for path in kept)
    assert sweep_store(runtime) == 0
    assert downloaded(runtime, done["artifact"]["id"]) == b"kept"


def test_the_objects_are_looked_at_a_part_at_a_time(
    stored: tuple[Replica, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, directory = stored
    task = runtime.create()
    monkeypatch.setattr("bloom.artifacts.service.SWEEP_BATCH", 2)
    paths = [place(directory, task["id"], id_of_two_hours_ago()) for _ in range(5)]
    assert [sweep_store(runtime) for _ in range(4)] == [2, 2, 1, 0]
    assert not any(path.exists() for path in paths)


def test_an_artifact_that_waits_for_its_move_keeps_its_object(
    stored: tuple[Replica, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, directory = stored
    task, lease = runtime.leased()
    output = b"0123456789abcdef" * (2 * MIB // 16)
    up = told(put(runtime, lease, 0, output))
    told(runtime.complete(task["id"], lease["id"], **named(output, up["output_ref"])))
    # A move that was cut off between the store and the database.
    halfway = place(directory, task["id"], up["output_ref"])
    monkeypatch.setattr("bloom.artifacts.service.ORPHAN_AGE", timedelta(hours=-1))
    assert sweep_store(runtime) == 0 and halfway.exists()
    assert runtime.run(runtime.services.artifacts.move_to_store()) == 1
    assert downloaded(runtime, up["output_ref"]) == output


def test_an_id_tells_when_it_was_made() -> None:
    made = made_at(new_artifact_id())
    assert made is not None and abs(made - datetime.now(UTC)) < timedelta(minutes=1)
    assert made_at("x") is None and made_at(str(uuid4())) is None
