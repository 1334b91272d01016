"""Traces from the request to the child, and the request id that goes the same way."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import otlp_receiver
from tests.real_runtime import Replica, StartReplica, told
from tests.real_worker import NO_LIMITS, RealWorker

from bloom.telemetry.tracing import begin_tracing, end_tracing, record, sane_traceparent, span, tracing

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE_ID, CALLERS_SPAN = CALLER.split("-")[1:3]
SPANS = {"task.create", "task.queue", "task.claim", "task.run", "task.child", "task.complete"}

# A child that answers with what it was told of where it belongs.
TELL = "import json, os; print(json.dumps({n: os.environ.get(n) for n in ('BLOOM_REQUEST_ID', 'TRACEPARENT')}))"
CONFIG = f"stop_grace_sec = 0\n[command]\nargv = {json.dumps([sys.executable, '-I', '-S', '-c', TELL])}\n{NO_LIMITS}"


def ran(runtime: Replica, directory: Path, task_id: str, **environment: str) -> tuple[dict[str, Any], str]:
    """What the child of a task said, and the log of the worker that ran it."""
    worker = RealWorker(runtime.url, directory, config=CONFIG, environment={**os.environ, **environment})
    worker.start()
    try:
        worker.until(lambda: runtime.task(task_id)["status"] == "completed", "the task")
        worker.stop()
    finally:
        worker.kill()
    (artifact,) = told(runtime.get("/artifacts", task_id=task_id))
    return json.loads(artifact["content"]), worker.log()


def test_a_task_is_one_trace_from_the_request_to_the_child(
    start_replica: StartReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20canary")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        runtime = start_replica(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        body = {"context_id": "c", "agent_slug": "a", "prompt": "p"}
        task = told(runtime.post("/llm-tasks", body, traceparent=CALLER, **{"X-Request-Id": "asked-by-me"}), 201)
        said, log = ran(runtime, tmp_path / "worker", task["id"])
        try:
            found = receiver.until(SPANS)
        finally:
            end_tracing()

    assert {one.trace_id for one in receiver.spans} == {TRACE_ID}
    create, run, child = found["task.create"], found["task.run"], found["task.child"]
    assert task["traceparent"] == f"00-{TRACE_ID}-{create.span_id}-01"
    assert create.parent_id == CALLERS_SPAN
    for name in ("task.queue", "task.claim", "task.run", "task.complete"):
        assert found[name].parent_id == create.span_id, name
        assert found[name].attributes["bloom.task_id"] == task["id"], name
    assert child.parent_id == run.span_id
    assert said == {"BLOOM_REQUEST_ID": "asked-by-me", "TRACEPARENT": f"00-{TRACE_ID}-{child.span_id}-01"}
    assert {one.service for one in (create, found["task.claim"])} == {"bloom-runtime"}
    assert {one.service for one in (run, child)} == {"bloom-worker"}
    assert found["task.queue"].end_ns == found["task.claim"].start_ns
    assert all(one.start_ns <= one.end_ns and not one.failed for one in receiver.spans)
    assert set(receiver.headers) == {"Bearer canary"} and "canary" not in log


def test_without_tracing_a_callers_trace_and_request_id_reach_the_child_and_the_log(
    runtime: Replica, tmp_path: Path
) -> None:
    body = {"context_id": "c", "agent_slug": "a", "prompt": "p"}
    task = told(runtime.post("/llm-tasks", body, traceparent=CALLER, **{"X-Request-Id": "asked-by-me"}), 201)
    said, log = ran(runtime, tmp_path / "worker", task["id"], BLOOM_LOG_FORMAT="json")
    assert said == {"BLOOM_REQUEST_ID": "asked-by-me", "TRACEPARENT": CALLER}
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    of_task = {line["message"]: line.get("request_id") for line in lines if line.get("task") == task["id"]}
    assert {"run started", "run ended", "report delivered"} <= set(of_task)
    assert set(of_task.values()) == {"asked-by-me"}


def test_a_task_keeps_the_request_that_made_it_and_a_traceparent_that_is_none_is_ignored(runtime: Replica) -> None:
    body = {"context_id": "c", "agent_slug": "a", "prompt": "p", "idempotency_key": "k"}
    answer = runtime.post("/llm-tasks", body, traceparent="00-nonsense")
    task = told(answer, 201)
    assert task["request_id"] == answer.headers["X-Request-Id"] and task["traceparent"] is None
    again = told(runtime.post("/llm-tasks", body, **{"X-Request-Id": "another"}), 200)
    assert again == task
    headers = {"X-Request-Id": "of-the-batch", "traceparent": CALLER}
    batch = told(runtime.post("/llm-tasks/batch", {"tasks": [{**body, "idempotency_key": None}]}, **headers))
    (item,) = batch["results"]
    assert (item["task"]["request_id"], item["task"]["traceparent"]) == ("of-the-batch", CALLER)
    listed = told(runtime.get("/llm-tasks"))
    assert {one["request_id"] for one in listed} == {task["request_id"], "of-the-batch"}


@pytest.mark.parametrize(
    ("text", "sane"),
    [
        (CALLER, True),
        (None, False),
        ("", False),
        (CALLER.upper(), False),
        (f"{CALLER}-more", False),
        (CALLER.replace("00-", "ff-", 1), False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE_ID}-{'0' * 16}-01", False),
    ],
)
def test_only_a_traceparent_of_the_standards_form_is_kept(text: str | None, sane: bool) -> None:
    assert sane_traceparent(text) == (text if sane else None)


def test_a_span_that_fails_says_so_without_the_words_of_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        begin_tracing(receiver.url, "test")
        assert tracing()
        with pytest.raises(ValueError, match="canary"), span("fails", None, {}) as traceparent:
            assert traceparent is not None and sane_traceparent(traceparent) == traceparent
            raise ValueError("canary")
        end_tracing()
        (sent,) = receiver.spans
    assert sent.failed and sent.parent_id == "" and "canary" not in repr(sent)
    assert not tracing()


def test_without_an_endpoint_nothing_is_traced_and_nothing_of_it_imported() -> None:
    code = (
        "import sys, bloom.server.app, bloom.worker.daemon\n"
        "from bloom.telemetry.tracing import begin_tracing, span, tracing\n"
        "begin_tracing(None, 'x')\n"
        "with span('a', 'parent', {}) as inner: assert inner == 'parent'\n"
        "assert not tracing() and not {'opentelemetry.sdk', 'opentelemetry.exporter'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_endpoint_without_the_packages_is_an_error_that_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from bloom.base.errors import ConfigurationError\n"
        "from bloom.telemetry.tracing import begin_tracing\n"
        "try: begin_tracing('http://127.0.0.1:1', 'x')\n"
        "except ConfigurationError as error: print(error.message)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert re.search(r"OTEL_EXPORTER_OTLP_ENDPOINT .*bloom-runtime\[tracing\]", said)


def test_what_is_recorded_without_tracing_is_dropped() -> None:
    record("nothing", None, datetime.now(UTC), datetime.now(UTC), {})
