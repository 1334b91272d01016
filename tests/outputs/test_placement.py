"""Where an uploaded output ends up, and how it is read while it moves."""

from pathlib import Path

import pytest
from tests.outputs.conftest import Held
from tests.outputs.uploads import downloaded, named, put
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, refused, told
from tests.runtime.invariants import check_invariants

from bloom.artifacts.model import CHUNK_BYTES
from bloom.base.errors import Upstream
from bloom.base.ids import ArtifactId

MIB = 1024 * 1024
OUTPUT = b"".join(f"{n:015}\n".encode() for n in range(3 * MIB // 16))


def completed(runtime: Replica) -> str:
    """The artifact that an upload of OUTPUT became."""
    runtime.register()
    task, lease = runtime.leased()
    up = told(put(runtime, lease, 0, OUTPUT))
    told(runtime.complete(task["id"], lease["id"], **named(OUTPUT, up["output_ref"])))
    return up["output_ref"]


@pytest.mark.parametrize("format_and_type", [("json", "application/json"), ("text", "text/plain; charset=utf-8")])
def test_an_upload_has_the_content_type_of_its_task(runtime: Replica, format_and_type: tuple[str, str]) -> None:
    runtime.register()
    task, lease = runtime.leased(desired_format=format_and_type[0])
    up = told(put(runtime, lease, 0, b'"answer"'))
    done = told(runtime.complete(task["id"], lease["id"], **named(b'"answer"', up["output_ref"])))
    assert done["artifact"]["content_type"] == format_and_type[1]


def test_the_chunks_become_the_content_without_a_copy(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task, lease = runtime.leased()
    up = told(put(runtime, lease, 0, OUTPUT))
    where = "select ctid::text, n from bloom.upload_chunks order by n"
    before = database.rows(where)
    assert len(before) == len(OUTPUT) // CHUNK_BYTES
    told(runtime.complete(task["id"], lease["id"], **named(OUTPUT, up["output_ref"])))
    assert database.rows(where) == before


def test_with_an_object_store_an_upload_moves_there(
    start_replica: StartReplica, database: FreshDatabase, tmp_path: Path
) -> None:
    runtime = start_replica(BLOOM_BLOB_DIR=str(tmp_path / "blobs"))
    artifact_id = completed(runtime)
    assert told(runtime.get(f"/artifacts/{artifact_id}"))["url"] is None
    assert downloaded(runtime, artifact_id) == OUTPUT
    assert runtime.run(runtime.services.artifacts.move_to_store()) == 1
    artifact = told(runtime.get(f"/artifacts/{artifact_id}"))
    assert artifact["url"].startswith("file://") and artifact["content"] is None
    assert downloaded(runtime, artifact_id) == OUTPUT
    (result,) = told(runtime.get(f"/llm-tasks/{artifact['task_id']}/results"))
    assert result["output"] == OUTPUT[: 64 * 1024].decode() and result["truncated"] is True
    check_invariants(database)


def test_a_reader_is_not_cut_off_by_the_move_of_what_it_reads(start_replica: StartReplica, tmp_path: Path) -> None:
    runtime = start_replica(BLOOM_BLOB_DIR=str(tmp_path / "blobs"))
    artifact_id = ArtifactId(completed(runtime))
    artifacts = runtime.services.artifacts

    async def read() -> bytes:
        reading = artifacts.content(await artifacts.get(artifact_id))
        beginning = await anext(reading) + await anext(reading)
        assert await artifacts.move_to_store() == 1
        return beginning + b"".join([piece async for piece in reading])

    assert runtime.run(read()) == OUTPUT


def test_a_content_that_is_not_whole_is_an_error_and_never_a_short_answer(
    runtime: Replica, database: FreshDatabase
) -> None:
    artifact_id = ArtifactId(completed(runtime))
    database.edit("delete from bloom.upload_chunks where n = 2")
    artifacts = runtime.services.artifacts

    async def read() -> list[bytes]:
        return [piece async for piece in artifacts.content(await artifacts.get(artifact_id))]

    with pytest.raises(Upstream) as raised:
        runtime.run(read())
    assert raised.value.code == "content_incomplete"


def test_a_replica_that_did_not_see_all_of_an_upload_reads_it_before_it_is_completed(
    runtime: Replica, start_replica: StartReplica, database: FreshDatabase
) -> None:
    other = start_replica()
    runtime.register()
    task, lease = runtime.leased()
    told(put(runtime, lease, 0, OUTPUT[:MIB]))
    assert database.value("select sha256 is not null from bloom.uploads")
    up = told(put(other, lease, MIB, OUTPUT[MIB:]))
    assert database.value("select sha256 is null from bloom.uploads")
    wrong = {**named(OUTPUT, up["output_ref"]), "output_sha256": "0" * 64}
    assert refused(other.complete(task["id"], lease["id"], **wrong), 409) == "output_mismatch"
    # What was found out is remembered, so a completion that is sent again does not read it all once more.
    assert database.value("select sha256 from bloom.uploads") == named(OUTPUT, "")["output_sha256"]
    told(other.complete(task["id"], lease["id"], **named(OUTPUT, up["output_ref"])))


def test_what_the_rows_hold_is_what_counts_where_the_digest_is_not_known(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    up = told(put(runtime, lease, 0, b"right"))
    database.edit("update bloom.uploads set sha256 = null")
    database.edit("update bloom.upload_chunks set data = 'wrong'")
    answer = runtime.complete(task["id"], lease["id"], **named(b"right", up["output_ref"]))
    assert refused(answer, 409) == "output_mismatch"
