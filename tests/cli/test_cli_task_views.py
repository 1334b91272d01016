"""`bloom task list`, `show`, `cancel`, `requeue`; `bloom worker list` and its kin; errors and exit codes."""

import json
from typing import Any

import pytest
from fake_runtime import ARTIFACT_ID, CREATED_MS, TASK_ID, Answer, Bloom, FakeRuntime, event, result, task, worker

from bloom.cli.pages import next_cursor


def page(*names: str, cursor: str | None = None) -> Answer:
    headers = {} if cursor is None else {"Link": f'<?status=dead&cursor={cursor}>; rel="next"'}
    return Answer([task("dead", id=name) for name in names], headers=headers)


def test_a_list_reads_as_many_pages_as_it_needs(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/llm-tasks", page("a", "b", cursor="c1"), page("c", cursor="c2"), page("d"))
    listed = json.loads(bloom("task", "list", "--all", "--status", "dead", "--json").stdout)
    assert [item["id"] for item in listed] == ["a", "b", "c", "d"]
    asked = [seen.query for seen in runtime.requests("GET", "/llm-tasks")]
    assert [query.get("cursor") for query in asked] == [None, "c1", "c2"]
    assert {query["status"] for query in asked} == {"dead"}


def test_a_list_stops_at_its_limit(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/llm-tasks", page("a", "b", cursor="c1"), page("c", cursor="c2"))
    assert len(json.loads(bloom("task", "list", "--limit", "3", "--json").stdout)) == 3
    assert [seen.query["limit"] for seen in runtime.requests("GET", "/llm-tasks")] == ["3", "1"]


def test_a_list_shows_whole_ids_and_no_control_characters(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/llm-tasks", Answer([task("running", prompt="first\x1b]0;owned\x07 line\nsecond")]))
    header, row = bloom("task", "list").stdout.splitlines()
    assert header.split() == ["ID", "STATUS", "CREATED", "WORKER", "PROMPT"]
    assert row.startswith(f"{TASK_ID}  running  ")
    assert row.endswith("pi4     first line second")


def test_an_empty_list_says_so(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/llm-tasks", Answer([]))
    assert bloom("task", "list", "--status", "failed").stdout == "no failed tasks\n"
    assert json.loads(bloom("task", "list", "--json").stdout) == []


@pytest.mark.parametrize(
    ("link", "cursor"),
    [
        ("", None),
        ('<https://h/x?cursor=a%3D&limit=2>; rel="next"', "a="),
        ('<?cursor=p>; rel="prev", <?cursor=n>; rel="next"', "n"),
        ("</x?cursor=n>; rel=next", "n"),
        ('<?limit=2>; rel="next"', None),
    ],
)
def test_the_next_page_is_read_from_the_link_header(link: str, cursor: str | None) -> None:
    assert next_cursor(link) == cursor


def show_answers(runtime: FakeRuntime, status: str, results: list[dict[str, Any]]) -> None:
    runtime.on("GET", f"/llm-tasks/{TASK_ID}", Answer(task(status, labels=["arm"])))
    runtime.on("GET", f"/llm-tasks/{TASK_ID}/results", Answer(results))
    artifact: dict[str, Any] = {
        "id": ARTIFACT_ID,
        "task_id": TASK_ID,
        "job_id": TASK_ID,
        "type": "LLM_RESULT",
        "created_at": CREATED_MS,
        "finalized": True,
        "url": None,
        "entity_refs": [],
        "tags": [],
        "content": "hello",
        "content_type": "text/plain",
        "size_bytes": 5,
        "sha256": "0" * 64,
    }
    runtime.on("GET", "/artifacts", Answer([artifact] if results else []))
    first = [event(1, "tool_use", name="Bash", input={"command": "ls"}), event(2, "text", text="hel")]
    runtime.on("GET", f"/llm-tasks/{TASK_ID}/events", Answer(first), Answer([event(3, "text", text="lo")]), Answer([]))


def test_show_tells_all_that_is_known(runtime: FakeRuntime, bloom: Bloom) -> None:
    failed = result(None, "error", completed_at=CREATED_MS - 1)
    show_answers(runtime, "completed", [failed, result("hello")])
    done = bloom("task", "show", TASK_ID)
    assert done.exit_code == 0
    for part in (TASK_ID, "completed", "arm", "say hello", "model_error: the model refused", ARTIFACT_ID, "→ Bash ls"):
        assert part in done.stdout
    assert "Events (the last of 3)" in done.stdout
    assert done.stdout.endswith("\nOutput\nhello\n")
    assert runtime.requests("GET", "/artifacts")[0].query == {"task_id": TASK_ID}


def test_show_tells_work_that_came_too_late_apart_from_the_output(runtime: FakeRuntime, bloom: Bloom) -> None:
    late = {**result("finished too late"), "rejected": True, "reason": "lease_expired", "completed_at": CREATED_MS + 1}
    show_answers(runtime, "completed", [result("hello"), late])
    done = bloom("task", "show", TASK_ID)
    assert "rejected" in done.stdout and "came too late: lease_expired" in done.stdout
    assert f"Output that came too late, of {late['worker_id']}\nfinished too late\n" in done.stdout
    assert done.stdout.endswith("\nOutput\nhello\n")


def test_show_of_a_running_task_says_how_to_follow_it(runtime: FakeRuntime, bloom: Bloom) -> None:
    show_answers(runtime, "running", [])
    assert f"bloom task show {TASK_ID} --follow" in bloom("task", "show", TASK_ID).stdout


def test_show_as_json_is_one_document_of_the_runtimes_objects(runtime: FakeRuntime, bloom: Bloom) -> None:
    show_answers(runtime, "completed", [result()])
    document = json.loads(bloom("task", "show", TASK_ID, "--json").stdout)
    assert document["task"] == task("completed", labels=["arm"])
    assert document["results"] == [result()]
    assert [item["id"] for item in document["events"]] == [1, 2, 3]
    assert document["artifacts"][0]["id"] == ARTIFACT_ID


def test_cancel_does_each_task_and_tells_the_first_refusal_by_its_exit_code(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("POST", "/llm-tasks/a/cancel", Answer({"error": "It is final", "code": "conflict"}, 409))
    runtime.on("POST", "/llm-tasks/b/cancel", Answer(task("running", id="b", cancel_requested=True)))
    runtime.on("POST", "/llm-tasks/c/cancel", Answer(task("cancelled", id="c")))
    done = bloom("task", "cancel", "a", "b", "c", "missing")
    assert done.exit_code == 7
    assert done.stdout.splitlines() == ["b cancel asked; pi4 stops it", "c cancelled"]
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["a:", "missing:"]
    outcomes = json.loads(bloom("task", "cancel", "a", "c", "--json").stdout)
    assert outcomes == [
        {"id": "a", "error": "It is final", "code": "conflict"},
        {"id": "c", "task": task("cancelled", id="c")},
    ]


def test_requeue_queues_again(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("POST", f"/llm-tasks/{TASK_ID}/requeue", Answer(task()))
    done = bloom("task", "requeue", TASK_ID)
    assert (done.exit_code, done.stdout) == (0, f"{TASK_ID} queued again\n")


def test_an_id_never_becomes_another_path(runtime: FakeRuntime, bloom: Bloom) -> None:
    assert bloom("task", "show", "..").exit_code == 2
    bloom("task", "cancel", "../workers/x")
    assert [seen.path for seen in runtime.seen] == ["/llm-tasks/..%2Fworkers%2Fx/cancel"]


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "invalid", 2),
        (401, "unauthorized", 5),
        (403, "forbidden", 5),
        (404, "not_found", 6),
        (409, "conflict", 7),
        (429, "rate_limited", 4),
        (500, "internal", 1),
        (503, "unavailable", 4),
    ],
)
def test_each_refusal_has_its_exit_code_and_one_line(
    runtime: FakeRuntime, bloom: Bloom, status: int, code: str, exit_code: int
) -> None:
    runtime.on("GET", "/llm-tasks", Answer({"error": "Because\x1b[2J of this", "code": code}, status))
    done = bloom("task", "list")
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("bloom: Because of this")
    as_json = bloom("task", "list", "--json")
    assert as_json.exit_code == exit_code
    assert json.loads(as_json.stderr)["code"] == code


def test_another_server_on_that_port_is_named_as_such(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/llm-tasks", Answer(b"<h1>It works!</h1>"))
    done = bloom("task", "list")
    assert done.exit_code == 4 and "is not a BLOOM runtime" in done.stderr


def test_an_answer_of_another_form_is_no_traceback(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/llm-tasks", Answer([{"id": 1}]))
    done = bloom("task", "list")
    assert done.exit_code == 1 and "not understood" in done.stderr


def test_an_unreachable_runtime_is_named_with_where_its_address_comes_from(bloom: Bloom) -> None:
    done = bloom("worker", "list", "--runtime", "http://127.0.0.1:1")
    assert done.exit_code == 4 and "http://127.0.0.1:1" in done.stderr and "the-key" not in done.stderr
    assert bloom("worker", "list", "--runtime", "nonsense").exit_code == 2


def test_workers_are_listed(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/workers", Answer([worker(), worker("nuc", draining=True), worker("old", status="offline")]))
    lines = bloom("worker", "list").stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["pi4", "online", "1/2"],
        ["nuc", "draining", "1/2"],
        ["old", "offline", "1/2"],
    ]
    assert len(json.loads(bloom("worker", "list", "--json").stdout)) == 3


@pytest.mark.parametrize(
    ("command", "method", "path", "answer"),
    [
        ("drain", "POST", "/workers/pi%204/drain", worker("pi 4", draining=True)),
        ("resume", "POST", "/workers/pi%204/resume", worker("pi 4")),
        ("remove", "DELETE", "/workers/pi%204", {"removed": True, "id": "pi 4"}),
    ],
)
def test_a_worker_is_drained_resumed_and_removed(
    runtime: FakeRuntime, bloom: Bloom, command: str, method: str, path: str, answer: dict[str, Any]
) -> None:
    runtime.on(method, path, Answer(answer))
    done = bloom("worker", command, "pi 4")
    assert done.exit_code == 0 and done.stdout.startswith("pi 4 ")
    assert json.loads(bloom("worker", "--runtime", runtime.url, command, "pi 4", "--json").stdout) == answer
    assert bloom("worker", command, "nobody").exit_code == 6
