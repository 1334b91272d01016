"""Large outputs arrive whole through whatever cuts, from the holder of the lease alone."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.outputs.conftest import Held
from tests.outputs.uploads import downloaded, go_on, large, named, put, put_and_cut, received
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, in_background, refused, told
from tests.runtime.invariants import check_invariants

from bloom.artifacts.model import CHUNK_BYTES

MIB = 1024 * 1024
LINES = "one line of an output: é 漢 🌱 \u2028\t\\\"'\n".encode() * 50_000
SHORT = "aé漢🌱z\n".encode() * 3


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB + 7])
def test_an_uploaded_output_becomes_the_artifact_byte_for_byte(
    runtime: Replica, database: FreshDatabase, held: Held, size: int
) -> None:
    task, lease = held
    output = large(size)
    up = told(put(runtime, lease, 0, output))
    assert (up["received"], up["cancel"]) == (size, False)
    done = told(runtime.complete(task["id"], lease["id"], **named(output, up["output_ref"])))
    artifact = done["artifact"]
    assert (artifact["id"], artifact["size_bytes"]) == (up["output_ref"], size)
    assert artifact["content"] == (output.decode() if size <= MIB else None)
    assert downloaded(runtime, artifact["id"]) == output
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert result["output"] == output[: 64 * 1024].decode()
    assert result.get("truncated", False) is (size > 64 * 1024)
    check_invariants(database)


def test_an_upload_goes_on_at_any_byte_on_another_replica_too(
    runtime: Replica, start_replica: StartReplica, database: FreshDatabase
) -> None:
    other = start_replica()
    runtime.register()
    for cut in range(len(SHORT) + 1):
        task, lease = runtime.leased()
        told(put(runtime, lease, 0, SHORT[:cut]))
        up = told(put(other, lease, cut, SHORT[cut:]))
        done = told(other.complete(task["id"], lease["id"], **named(SHORT, up["output_ref"])))
        assert done["artifact"]["content"] == SHORT.decode()
    check_invariants(database)


def test_an_upload_whose_connections_are_cut_again_and_again_arrives_whole(
    runtime: Replica, start_replica: StartReplica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    output = large(4 * MIB)
    fronts = [runtime, start_replica()]
    sizes = random.Random(7)  # noqa: S311 - no secret
    for n in range(12):
        start = received(fronts[n % 2], lease)
        size = sizes.randrange(1, MIB)
        put_and_cut(fronts[n % 2], lease, start, output[start : start + size], announced=len(output) - start + 1)
    ref = go_on(fronts[1], lease, output)
    done = told(runtime.complete(task["id"], lease["id"], **named(output, ref)))
    assert downloaded(fronts[1], done["artifact"]["id"]) == output
    check_invariants(database)


def test_any_cuts_of_a_large_output_give_the_same_artifact(runtime: Replica) -> None:
    chance = random.Random(5)  # noqa: S311 - no secret
    runtime.register()
    for round_ in range(12):
        cuts = sorted(chance.choices(range(len(LINES) + 1), k=round_ % 9))
        task, lease = runtime.leased()
        ref = ""
        for start, end in zip([0, *cuts], [*cuts, len(LINES)], strict=True):
            piece = LINES[start:end]
            ref = told(put(runtime, lease, start, iter([piece]) if round_ % 2 and piece else piece))["output_ref"]
        done = told(runtime.complete(task["id"], lease["id"], **named(LINES, ref)))
        assert downloaded(runtime, done["artifact"]["id"]) == LINES, (round_, cuts)


def test_an_offset_that_is_not_what_was_received_is_refused_and_told(runtime: Replica, held: Held) -> None:
    _, lease = held
    assert refused(put(runtime, lease, 3, b"abc"), 409) == "offset_mismatch"
    told(put(runtime, lease, 0, b"abc"))
    for wrong in (0, 2, 4):
        answer = put(runtime, lease, wrong, b"def")
        assert refused(answer, 409) == "offset_mismatch" and answer.json()["received"] == 3
    assert told(put(runtime, lease, 3))["received"] == 3
    assert refused(put(runtime, lease, 2), 409) == "offset_mismatch"
    path = f"/llm-tasks/{lease['task_id']}/output"
    assert told(runtime.get(path, lease_id=lease["id"]))["received"] == 3
    head = runtime.http.head(path, params={"lease_id": lease["id"]})
    assert (head.status_code, head.content, head.headers["upload-offset"]) == (200, b"", "3")


def test_before_the_first_byte_nothing_was_received(runtime: Replica, held: Held) -> None:
    task, lease = held
    assert told(runtime.get(f"/llm-tasks/{task['id']}/output", lease_id=lease["id"])) == {
        "output_ref": None, "received": 0, "cancel": False
    }  # fmt: skip
    assert refused(runtime.get("/llm-tasks/none/output", lease_id=lease["id"]), 404) == "task_not_found"
    assert refused(put(runtime, {"id": lease["id"], "task_id": "none"}, 0, b"x"), 404) == "task_not_found"
    assert refused(runtime.http.put(f"/llm-tasks/{task['id']}/output"), 400) == "invalid"


def test_an_upload_that_begins_anew_has_another_name_and_nothing_of_the_old(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    first = told(put(runtime, lease, 0, b"wrong"))
    second = told(put(runtime, lease, 0, b"right", restart="true"))
    assert second["received"] == 5 and second["output_ref"] != first["output_ref"]
    answer = runtime.complete(task["id"], lease["id"], **named(b"wrong", first["output_ref"]))
    assert refused(answer, 409) == "output_mismatch"
    told(runtime.complete(task["id"], lease["id"], **named(b"right", second["output_ref"])))
    assert database.value("select count(*) from bloom.uploads") == 0
    check_invariants(database)


def test_a_completion_that_names_something_else_than_was_uploaded_changes_nothing(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    up = told(put(runtime, lease, 0, b"right"))
    before = database.dump()
    fields = named(b"right", up["output_ref"])
    item = {"task_id": task["id"], "lease_id": lease["id"], "status": "success", "metrics": {"duration_ms": 1}}
    for changed in ({"output_size": 4}, {"output_size": 6}, {"output_sha256": "0" * 64}, {"output_ref": "another"}):
        wrong = {**fields, **changed}
        assert refused(runtime.complete(task["id"], lease["id"], **wrong), 409) == "output_mismatch", changed
        batch = {"completions": [{**item, **wrong}]}
        (outcome,) = told(runtime.post("/workers/worker/complete", batch))["completions"]
        assert outcome["outcome"] == "output_mismatch", changed
    assert database.dump() == before
    told(runtime.complete(task["id"], lease["id"], **fields))


def test_an_output_of_another_lease_or_task_cannot_be_named(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register(slots=2)
    mine, my_lease = runtime.leased()
    other, other_lease = runtime.leased()
    up = told(put(runtime, other_lease, 0, b"of the other"))
    fields = named(b"of the other", up["output_ref"])
    assert refused(runtime.complete(mine["id"], my_lease["id"], **fields), 409) == "output_mismatch"
    runtime.fail(other["id"], other_lease["id"], retryable=True, retry_after_sec=0)
    fresh = runtime.lease(other["id"])
    assert refused(runtime.complete(other["id"], fresh["id"], **fields), 409) == "output_mismatch"
    told(put(runtime, fresh, 0, b"new"))
    check_invariants(database)


def test_only_the_current_lease_uploads(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, stale = held
    told(put(runtime, stale, 0, b"begun"))
    database.expire(stale["id"])
    runtime.reap()
    assert refused(put(runtime, stale, 5, b"more"), 409) == "lease_lost"
    fresh = runtime.lease(task["id"])
    before = database.dump()
    assert refused(put(runtime, stale, 5, b"more"), 409) == "lease_lost"
    assert refused(put(runtime, stale, 0, b"more", restart="true"), 409) == "lease_lost"
    assert database.dump() == before
    assert told(put(runtime, fresh, 0, b"mine"))["received"] == 4
    told(runtime.complete(task["id"], fresh["id"]))
    assert refused(put(runtime, fresh, 4, b"late"), 409) == "lease_lost"


def test_a_lease_that_is_lost_while_its_output_comes_takes_no_more_of_it(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    piece = b"x" * CHUNK_BYTES
    first, lost = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield piece
        first.set()
        assert lost.wait(5)
        yield piece

    with in_background(lambda: put(runtime, lease, 0, pieces())) as answer:
        assert first.wait(5)
        eventually(lambda: database.value("select count(*) from bloom.upload_chunks"))
        database.expire(lease["id"])
        runtime.reap()
        lost.set()
    assert refused(answer.result(), 409) == "lease_lost"
    assert received(runtime, lease) == CHUNK_BYTES
    assert runtime.task(task["id"])["status"] == "queued"


def test_each_piece_renews_the_lease_and_the_first_makes_the_task_running(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    database.edit("update bloom.leases set expires_at = now() + interval '5 seconds'")
    told(put(runtime, lease, 0, b"a"))
    assert runtime.task(task["id"])["status"] == "running"
    left = "select extract(epoch from expires_at - now()) > 100 from bloom.leases"
    assert database.value(left)
    database.edit("update bloom.leases set expires_at = now() + interval '5 seconds'")
    told(put(runtime, lease, 1, b"b"))
    assert database.value(left)


def test_an_uploader_is_told_that_its_task_was_cancelled(runtime: Replica, database: FreshDatabase, held: Held) -> None:
    task, lease = held
    told(runtime.post(f"/llm-tasks/{task['id']}/cancel"))
    up = told(put(runtime, lease, 0, b"too late"))
    assert up["cancel"] is True
    assert (
        refused(runtime.complete(task["id"], lease["id"], **named(b"too late", up["output_ref"])), 409) == "cancelled"
    )
    assert told(runtime.get("/artifacts")) == []
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert (result["code"], result["output"]) == ("cancelled", "too late")
    check_invariants(database)


def test_what_is_no_text_is_refused_and_the_upload_can_begin_anew(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    half = "漢".encode()[:2]
    for bad in (b"a\0b", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", half + b"x", b"x" * CHUNK_BYTES + b"\0"):
        task, lease = runtime.leased()
        assert refused(put(runtime, lease, 0, bad), 400) == "invalid_output", bad[:9]
        up = told(put(runtime, lease, 0, b"good", restart="true"))
        told(runtime.complete(task["id"], lease["id"], **named(b"good", up["output_ref"])))
    check_invariants(database)


def test_an_output_that_ends_within_a_character_is_not_taken(runtime: Replica, held: Held) -> None:
    task, lease = held
    half = "漢".encode()[:2]
    up = told(put(runtime, lease, 0, half))
    assert refused(runtime.complete(task["id"], lease["id"], **named(half, up["output_ref"])), 409) == "output_mismatch"
    assert refused(put(runtime, lease, 2, b"x"), 400) == "invalid_output"
    told(put(runtime, lease, 2, "漢".encode()[2:]))
    told(runtime.complete(task["id"], lease["id"], **named("漢".encode(), up["output_ref"])))


def test_the_body_limit_of_other_routes_is_not_that_of_outputs(start_replica: StartReplica) -> None:
    runtime = start_replica(BLOOM_MAX_BODY_BYTES="4096", BLOOM_MAX_OUTPUT_BYTES="10000")
    runtime.register()
    task, lease = runtime.leased()
    assert refused(put(runtime, lease, 0, b"x" * 10_001), 413) == "too_large"
    assert refused(put(runtime, lease, 0, iter([b"x" * 5000, b"x" * 5001])), 413) == "too_large"
    assert received(runtime, lease) == 0
    up = told(put(runtime, lease, 0, b"x" * 9_000))
    assert refused(put(runtime, lease, 9_000, b"x" * 1_001), 413) == "too_large"
    told(put(runtime, lease, 9_000, b"x" * 1_000))
    told(runtime.complete(task["id"], lease["id"], **named(b"x" * 10_000, up["output_ref"])))
    assert refused(runtime.complete(task["id"], output="x" * 5000), 413) == "too_large"


def test_output_ref_takes_the_place_of_the_output_of_a_success(runtime: Replica, held: Held) -> None:
    task, lease = held
    wrong: tuple[dict[str, object], ...] = (
        *({"output": "x"}, {"status": "error"}, {"output_size": None}, {"output_sha256": None}, {"output_size": -1}),
    )
    for changed in wrong:
        fields = {**named(b"x", "ref"), **changed}
        assert refused(runtime.complete(task["id"], lease["id"], **fields), 400) == "invalid", changed


def test_a_repeated_completion_of_an_uploaded_output_answers_with_the_first(
    runtime: Replica, database: FreshDatabase, held: Held
) -> None:
    task, lease = held
    output = large(2 * MIB)
    up = told(put(runtime, lease, 0, output))
    fields = named(output, up["output_ref"])
    first = told(runtime.complete(task["id"], lease["id"], **fields))
    before = database.dump()
    assert told(runtime.complete(task["id"], lease["id"], **fields)) == first
    other = runtime.complete(task["id"], lease["id"], **{**fields, "output_size": 1})
    assert refused(other, 409) == "already_completed"
    assert database.dump() == before


def test_a_repeated_completion_is_answered_after_its_output_has_moved_away(
    start_replica: StartReplica, database: FreshDatabase, tmp_path: Path
) -> None:
    runtime = start_replica(BLOOM_BLOB_DIR=str(tmp_path / "blobs"))
    runtime.register()
    task, lease = runtime.leased()
    output = large(2 * MIB)
    up = told(put(runtime, lease, 0, output))
    fields = named(output, up["output_ref"])
    told(runtime.complete(task["id"], lease["id"], **fields))
    assert runtime.run(runtime.services.artifacts.move_to_store()) == 1
    assert database.value("select count(*) from bloom.upload_chunks") == 0
    again = told(runtime.complete(task["id"], lease["id"], **fields))
    assert again["artifact"]["url"] is not None
    assert downloaded(runtime, up["output_ref"]) == output
    check_invariants(database)
