"""Outputs of every size arrive byte for byte."""

import hashlib

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, refused, told
from tests.runtime.invariants import check_invariants

KIB, MIB = 1024, 1024 * 1024


def text_of(size_bytes: int) -> str:
    """Text of exactly so many bytes of UTF-8, with characters of every length, that does not repeat."""
    line = ' é 漢 🌱 \\ " \n\t%s\u2028'
    length = 12 + len(line.encode())
    count = size_bytes // length
    return "".join(f"{n:012}{line}" for n in range(count)) + "x" * (size_bytes - count * length)


@pytest.mark.parametrize(
    "size",
    [0, 1, 200 * KIB, MIB - 1, MIB, MIB + 1, 3 * MIB // 2, 20 * MIB],
    ids=lambda size: f"{size} bytes",
)
def test_an_output_of_any_size_arrives_byte_for_byte(runtime: Replica, database: FreshDatabase, size: int) -> None:
    runtime.register()
    task, lease = runtime.leased()
    output = text_of(size)
    data = output.encode()
    assert len(data) == size
    done = told(runtime.complete(task["id"], lease["id"], output=output))
    artifact = done["artifact"]
    assert artifact["size_bytes"] == size and artifact["sha256"] == hashlib.sha256(data).hexdigest()
    content = runtime.get(f"/artifacts/{artifact['id']}/content")
    assert content.status_code == 200 and content.content == data
    assert content.headers["content-length"] == str(size)
    assert content.headers["content-type"] == "text/plain; charset=utf-8"

    shown = told(runtime.get(f"/artifacts/{artifact['id']}"))
    assert shown["content"] == (output if size <= MIB else None)
    (listed,) = told(runtime.get("/artifacts"))
    assert listed.get("truncated", False) is (size > 64 * KIB)
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert output.startswith(result["output"]) and (result["output"] or not size)
    assert result.get("truncated", False) is (len(output) > 64 * KIB)
    check_invariants(database)


def test_repeating_a_large_completion_answers_with_the_first_and_stores_nothing_more(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register()
    task, lease = runtime.leased()
    output = text_of(3 * MIB)
    first = told(runtime.complete(task["id"], lease["id"], output=output))
    before = database.dump()
    again = told(runtime.complete(task["id"], lease["id"], output=output))
    assert again["artifact"]["id"] == first["artifact"]["id"] and again["result"]["id"] == first["result"]["id"]
    assert refused(runtime.complete(task["id"], lease["id"], output=output + "."), 409) == "already_completed"
    assert database.dump() == before


def test_a_large_prompt_is_kept_whole_and_claimed_whole(runtime: Replica) -> None:
    runtime.register()
    prompt = text_of(5 * MIB)
    task = runtime.create(prompt=prompt)
    (granted,) = runtime.claim("worker", "r")
    assert granted["task"]["prompt"] == prompt
    assert runtime.task(task["id"])["prompt"] == prompt


def test_a_body_over_the_limit_is_refused_whether_announced_or_not(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task, _ = runtime.leased()
    before = database.dump()
    body = b'{"status": "success", "metrics": {"duration_ms": 1}, "output": "' + b"x" * (32 * MIB) + b'"}'
    headers = {"Content-Type": "application/json"}
    path = f"/llm-tasks/{task['id']}/complete"
    assert refused(runtime.http.post(path, content=body, headers=headers), 413) == "too_large"

    def pieces() -> list[bytes]:
        return [body[start : start + MIB] for start in range(0, len(body), MIB)]

    assert refused(runtime.http.post(path, content=iter(pieces()), headers=headers), 413) == "too_large"
    assert database.dump() == before
    told(runtime.complete(task["id"]))
