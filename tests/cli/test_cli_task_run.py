"""`bloom task run` and `show --follow`: what goes out, what a person sees, what a script gets."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_runtime import (
    ARTIFACT_ID,
    BOUND_SEC,
    TASK_ID,
    Answer,
    Bloom,
    FakeRuntime,
    end_message,
    result,
    run_message,
    task,
    task_message,
    worker,
)

STREAM = f"/llm-tasks/{TASK_ID}/stream"


def completes(runtime: FakeRuntime, *messages: bytes, output: str = "hello") -> None:
    """Script a task that is created and completes after `messages`."""
    runtime.on("POST", "/llm-tasks", Answer(task(), 201))
    runtime.on("GET", "/workers", Answer([worker()]))
    runtime.on("GET", STREAM, Answer(pieces=[*messages, end_message("completed", result(output))]))


def ends(runtime: FakeRuntime, status: str, last: dict[str, object] | None) -> None:
    runtime.on("POST", "/llm-tasks", Answer(task(), 201))
    runtime.on("GET", STREAM, Answer(pieces=[end_message(status, last)]))


def test_only_the_result_goes_to_a_pipe_and_the_way_to_it_to_stderr(runtime: FakeRuntime, bloom: Bloom) -> None:
    completes(
        runtime,
        task_message("queued"),
        task_message("leased"),
        task_message("running"),
        run_message(1, "status", state="started"),
        run_message(2, "tool_use", id="t", name="Bash", input={"command": "ls -l"}),
        run_message(3, "tool_result", id="t", is_error=True, content="no such\nfile"),
        run_message(4, "retry", attempt=1, max_retries=10, retry_delay_ms=2000, error_status=529, error="overloaded"),
        run_message(5, "rate_limit", status="allowed", limit="five_hour"),
        run_message(6, "rate_limit", status="rejected", limit="five_hour"),
        run_message(7, "text", text="hello"),
    )
    done = bloom("task", "run", "say hello")
    assert done.exit_code == 0
    assert done.stdout == "hello\n"
    assert done.stderr.splitlines() == [
        f"task {TASK_ID}",
        "waiting for a worker",
        "leased by pi4 (attempt 1 of 3)",
        "running at pi4 (attempt 1 of 3)",
        "→ Bash ls -l",
        "← error: no such file",
        "retry 1 of 10 in 2.0 s: 529 overloaded",
        "rate limit five_hour: rejected",
        f"completed · 12 s · 1,234 tokens · $0.0123 · worker pi4 · artifact {ARTIFACT_ID}",
    ]


def test_the_options_become_the_task(runtime: FakeRuntime, bloom: Bloom) -> None:
    completes(runtime)
    options = "--context c9 --agent review --hint a --hint b --timeout 60 --budget 1.5 --json-output --label arm"
    more = "--priority -3 --max-attempts 2 --concurrency-key k --idempotency-key once"
    assert bloom("task", "run", "hi", *options.split(), *more.split()).exit_code == 0
    (sent,) = runtime.requests("POST", "/llm-tasks")
    assert sent.headers["x-runtime-api-key"] == "the-key"
    assert sent.body == {
        "context_id": "c9",
        "agent_slug": "review",
        "prompt": "hi",
        "context_hints": ["a", "b"],
        "policy": {"timeout_sec": 60, "budget": 1.5},
        "desired_format": "json",
        "labels": ["arm"],
        "idempotency_key": "once",
        "priority": -3,
        "max_attempts": 2,
        "concurrency_key": "k",
    }


def test_a_new_task_has_a_context_and_a_key_of_its_own(runtime: FakeRuntime, bloom: Bloom) -> None:
    completes(runtime)
    for _ in range(2):
        bloom("task", "run", "hi", "--detach")
    first, second = (sent.body for sent in runtime.requests("POST", "/llm-tasks"))
    assert first["context_id"] != second["context_id"]
    assert first["idempotency_key"] != second["idempotency_key"]
    assert first["agent_slug"] == "default"
    for _ in range(2):
        bloom("task", "run", "hi", "--detach", "--idempotency-key", "same")
    third, fourth = (sent.body for sent in runtime.requests("POST", "/llm-tasks")[2:])
    assert third == fourth


def test_a_lost_answer_is_asked_for_again_under_the_same_key(runtime: FakeRuntime, bloom: Bloom) -> None:
    busy = Answer({"error": "busy", "code": "unavailable"}, 503)
    runtime.on("POST", "/llm-tasks", Answer(drop=True), busy, Answer(task(), 201))
    done = bloom("task", "run", "hi", "--detach")
    assert (done.exit_code, done.stdout) == (0, f"{TASK_ID}\n")
    keys = {sent.body["idempotency_key"] for sent in runtime.requests("POST", "/llm-tasks")}
    assert len(runtime.requests("POST", "/llm-tasks")) == 3 and len(keys) == 1


def test_an_answer_that_stays_lost_names_the_key_that_finds_the_task(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("POST", "/llm-tasks", Answer(drop=True))
    done = bloom("task", "run", "hi", "--quiet")
    assert done.exit_code == 4
    key = runtime.seen[0].body["idempotency_key"]
    assert f"--idempotency-key {key}" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_cut_stream_goes_on_behind_its_last_event(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("POST", "/llm-tasks", Answer(task(), 201))
    tool = {"id": "t", "name": "Read", "input": {"path": "a"}}
    runtime.on(
        "GET",
        STREAM,
        Answer(pieces=[task_message("running"), run_message(1, "tool_use", **tool)], whole=False),
        Answer(drop=True),
        Answer({"error": "Too many requests", "code": "rate_limited"}, 429),
        Answer(b"<html>maintenance</html>", 503),
        Answer(pieces=[task_message("running"), run_message(1, "tool_use", **tool)]),
        Answer(pieces=[run_message(2, "error", code="x", message="y"), end_message("completed", result())]),
    )
    done = bloom("task", "run", "hi")
    assert (done.exit_code, done.stdout) == (0, "hello\n")
    assert [seen.headers.get("last-event-id") for seen in runtime.requests("GET", STREAM)] == [
        None,
        "1",
        "1",
        "1",
        "1",
        "1",
    ]
    assert done.stderr.count("→ Read a") == 1
    assert done.stderr.count("running at pi4") == 1
    assert "next try in" in done.stderr


def test_a_task_that_vanishes_ends_the_following(runtime: FakeRuntime, bloom: Bloom) -> None:
    done = bloom("task", "show", "gone", "--follow")
    assert done.exit_code == 6
    assert "nothing under this id" in done.stderr


@pytest.mark.parametrize(
    ("status", "last", "code", "said"),
    [
        ("failed", result(None, "error"), 1, "model_error: the model refused"),
        ("dead", None, 1, "its worker was lost"),
        ("cancelled", None, 3, "cancelled"),
    ],
)
def test_the_exit_code_says_how_the_task_ended(
    runtime: FakeRuntime, bloom: Bloom, status: str, last: dict[str, object] | None, code: int, said: str
) -> None:
    ends(runtime, status, last)
    for quiet in ((), ("--quiet",)):
        done = bloom("task", "run", "hi", *quiet)
        assert (done.exit_code, done.stdout) == (code, "")
        assert said in done.stderr
    document = bloom("task", "run", "hi", "--json")
    assert (document.exit_code, document.stderr) == (code, "")
    assert json.loads(document.stdout) == {"task": task(status), "result": last}


def test_quiet_writes_the_result_and_nothing_else(runtime: FakeRuntime, bloom: Bloom) -> None:
    completes(runtime, task_message("queued"), task_message("running"))
    done = bloom("task", "run", "hi", "--quiet")
    assert (done.stdout, done.stderr) == ("hello\n", "")
    assert not runtime.requests("GET", "/workers")


def test_a_pipe_gets_the_output_as_it_is(runtime: FakeRuntime, bloom: Bloom) -> None:
    completes(runtime, output="a\x1b[31mb Ж\n")
    assert bloom("task", "run", "hi", "-q").stdout == "a\x1b[31mb Ж\n"


@pytest.mark.parametrize("last", [result(None), result("hel", truncated=True)])
def test_an_output_that_is_elsewhere_is_read_from_the_artifact(
    runtime: FakeRuntime, bloom: Bloom, last: dict[str, object]
) -> None:
    ends(runtime, "completed", last)
    runtime.on("GET", f"/artifacts/{ARTIFACT_ID}/content", Answer("Ж hello".encode()))
    assert bloom("task", "run", "hi", "-q").stdout == "Ж hello\n"
    assert json.loads(bloom("task", "run", "hi", "--json").stdout)["result"]["output"] == "Ж hello"


def test_the_prompt_may_come_from_stdin_or_a_file(runtime: FakeRuntime, bloom: Bloom, tmp_path: Path) -> None:
    completes(runtime)
    (tmp_path / "p.txt").write_text("from a file", encoding="utf-8")
    bloom("task", "run", "-", "-d", stdin="from stdin Ж")
    bloom("task", "run", "-d", stdin="piped")
    bloom("task", "run", "-d", "--file", "p.txt")
    prompts = [sent.body["prompt"] for sent in runtime.requests("POST", "/llm-tasks")]
    assert prompts == ["from stdin Ж", "piped", "from a file"]


@pytest.mark.parametrize(
    ("args", "stdin"),
    [
        (["hi", "--file", "p.txt"], None),
        (["--file", "missing.txt"], None),
        (["  "], None),
        ([], ""),
        (["-"], b"\xff\xfe"),
        (["a\0b"], None),
        (["hi", "--budget", "nan"], None),
        (["hi", "--timeout", "0"], None),
        (["hi", "--no-such-option"], None),
    ],
)
def test_wrong_usage_is_told_before_anything_is_sent(
    runtime: FakeRuntime, bloom: Bloom, args: list[str], stdin: str | bytes | None
) -> None:
    done = bloom("task", "run", *args, stdin=stdin)
    assert done.exit_code == 2
    assert done.stderr and not done.stdout
    assert not runtime.seen


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ([], "none is online; start one with `bloom worker`"),
        ([worker(status="offline"), worker("b", draining=True)], "none is online"),
        ([worker(capabilities={"claude_cli": True, "max_concurrency": 1, "labels": []})], "carries the labels arm"),
        ([worker(active_leases=2)], "all are busy"),
    ],
)
def test_a_person_is_told_why_nobody_takes_the_task(
    runtime: FakeRuntime, bloom: Bloom, workers: list[dict[str, object]], said: str
) -> None:
    runtime.on("GET", "/workers", Answer(workers))
    queued = task_message("queued", labels=["arm"])
    runtime.on("GET", STREAM, Answer(pieces=[queued, end_message("completed", result())]))
    assert said in bloom("task", "show", TASK_ID, "--follow").stderr


def test_a_second_attempt_and_a_cancel_are_seen(runtime: FakeRuntime, bloom: Bloom) -> None:
    completes(
        runtime,
        task_message("running"),
        task_message("queued", attempts=1, run_at=99_999_999_999_999),
        task_message("leased", attempts=2, worker_id="nuc"),
        task_message("leased", attempts=2, worker_id="nuc", cancel_requested=True),
    )
    lines = bloom("task", "run", "hi").stderr
    assert "queued again after attempt 1 of 3" in lines
    assert "waiting until its time, in" in lines
    assert "leased by nuc (attempt 2 of 3)" in lines
    assert "cancel asked; nuc stops it" in lines


def test_detach_prints_the_id_and_as_json_the_task(runtime: FakeRuntime, bloom: Bloom) -> None:
    completes(runtime)
    assert bloom("task", "run", "hi", "-d").stdout == f"{TASK_ID}\n"
    assert json.loads(bloom("task", "run", "hi", "-d", "--json").stdout) == task()
    assert not runtime.requests("GET", STREAM)


def test_ctrl_c_detaches_and_says_how_to_go_on(runtime: FakeRuntime, tmp_path: Path) -> None:
    hold = threading.Event()
    runtime.on("POST", "/llm-tasks", Answer(task(), 201))
    runtime.on("GET", STREAM, Answer(pieces=[task_message("running")], hold=hold))
    with subprocess.Popen(
        [sys.executable, "-m", "bloom", "task", "run", "hi"],
        env={**os.environ, "BLOOM_URL": runtime.url},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline(), process.stderr.readline()]
        assert lines[1] == "running at pi4 (attempt 1 of 3)\n"
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=BOUND_SEC)
    hold.set()
    assert process.returncode == 130
    assert out == ""
    assert f"bloom task show {TASK_ID} --follow" in rest and f"bloom task cancel {TASK_ID}" in rest
    assert "Traceback" not in rest
