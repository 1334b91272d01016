"""The `command` executor, with programs of every behaviour; and the built-in demo."""

import asyncio
import json
import os
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from living import marked, until, with_marker
from recording import Make, record, run, task

from bloom.worker.config import WorkerConfig
from bloom.worker.executors.choice import build_executor
from bloom.worker.executors.interface import Executor, Report, RunEvent, StopReason, StopSignal

pytestmark = pytest.mark.anyio


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*argv: str, environment: Mapping[str, str] | None = None, **config: Any) -> Executor:
        settings = {"stop_grace_sec": 0.05, "command": {"argv": list(argv) or None}, **config}
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **(environment or {})}
        return build_executor(WorkerConfig.model_validate(settings), tmp_path / "workspace", "command", environment)

    return make


@pytest.fixture
def marker() -> Generator[str]:
    with marked() as made:
        yield made


async def test_the_prompt_goes_in_and_the_answer_comes_out_streamed(make: Make) -> None:
    report, recording = await run(make("tr", "a-z", "A-Z"), task("a prompt"))
    assert (report.status, report.output, report.code) == ("success", "A PROMPT", None)
    assert recording.text == "A PROMPT"
    assert report.metrics["tokens_used"] is None
    assert report.metrics["duration_ms"] > 0


async def test_text_is_told_while_the_program_still_runs(make: Make, marker: str) -> None:
    recording = record(make("sh", "-c", f"echo early; sleep {marker}"), task())
    await recording.until(lambda event: event.data.get("text") == "early\n")
    recording.stop.set(StopReason.CANCELLED)
    assert (await recording.report()).code == "cancelled"


async def test_the_program_knows_its_task(make: Make) -> None:
    names = ("TASK_ID", "CONTEXT_ID", "AGENT_SLUG", "DESIRED_FORMAT", "LEASE_ID", "API_KEY")
    script = "; ".join(f'echo "$BLOOM_{name}"' for name in names)
    executor = make("sh", "-c", script, environment={"BLOOM_API_KEY": "secret", "RUNTIME_API_KEY": "secret"})
    of = task(context_id="cöntext\x00\ud800", task_id="t", lease_id="l")
    assert (await run(executor, of))[0].output == "t\ncöntext?\ncoder\ntext\nl\n\n"


async def test_its_environment_is_the_listed_one(make: Make) -> None:
    executor = make(
        sys.executable, "-c", "import os, json; print(json.dumps(sorted(os.environ)))",
        environment={"DATABASE_URL": "x", "ANTHROPIC_API_KEY": "x", "SECRET": "x", "WANTED_1": "x", "LANG": "C.UTF-8"},
        pass_env=["WANTED_*"], agents={"coder": {"env": {"OF_AGENT": "1"}}},
    )  # fmt: skip
    names = json.loads(str((await run(executor, task()))[0].output))
    assert [name for name in names if not name.startswith(("BLOOM_", "LC_", "_"))] == [
        "HOME",
        "LANG",
        "OF_AGENT",
        "PATH",
        "WANTED_1",
    ]


async def test_tasks_of_one_context_share_a_directory_and_others_do_not(make: Make, tmp_path: Path) -> None:
    executor = make("sh", "-c", "ls; touch left")
    first = await run(executor, task(context_id="a/../b"))
    again = await run(executor, task(context_id="a/../b"))
    other = await run(executor, task(context_id="a/../B"))
    assert [report.output for report, _ in (first, again, other)] == ["", "left\n", ""]
    configured = make("pwd", agents={"coder": {"working_directory": str(tmp_path)}})
    assert (await run(configured, task()))[0].output == f"{tmp_path}\n"


@pytest.mark.parametrize("format_", ["text", "json"])
async def test_output_that_is_no_utf8_is_replaced_and_a_character_is_never_split(make: Make, format_: str) -> None:
    code = "import os\nfor b in b'\"\\xc3\\xa4 \\xff \\xf0\\x9f\\x8c\\xb1\"': os.write(1, bytes([b]))"
    report, recording = await run(make(sys.executable, "-c", code), task(desired_format=format_))
    assert report.output == recording.text == '"ä � 🌱"'


async def test_a_failure_is_told_with_the_end_of_stderr_and_without_keys(make: Make) -> None:
    script = "echo partial; echo 'no: sk-ant-0123456789 and hunter2-hunter2' >&2; exit 3"
    report, recording = await run(
        make("sh", "-c", script, environment={"MY_TOKEN": "hunter2-hunter2"}, pass_env=["MY_TOKEN"]), task()
    )
    assert (report.status, report.code, report.retryable, report.output) == ("error", "command_failed", False, None)
    assert report.error_message == "The command ended with exit status 3. It says: no: [masked] and [masked]"
    assert recording.of("error") == [{"code": "command_failed", "message": report.error_message}]


async def test_a_program_that_is_killed_from_outside_may_be_tried_again(make: Make) -> None:
    report, _ = await run(make("sh", "-c", "kill -9 $$"), task())
    assert (report.code, report.retryable) == ("interrupted", True)


@pytest.mark.parametrize("argv", [["/there/is/none"], ["no-such-program"], ["."], [""]])
async def test_a_program_that_is_not_there_is_said(make: Make, argv: list[str]) -> None:
    report, _ = await run(make(*argv), task())
    assert (report.code, report.retryable) == ("command_missing", False)


async def test_a_directory_that_cannot_be_used_is_said(make: Make, tmp_path: Path) -> None:
    (tmp_path / "workspace").write_text("in the way")
    report, _ = await run(make("true"), task())
    assert (report.code, report.retryable) == ("workspace_failed", True)
    assert str(tmp_path) not in str(report.error_message)


async def test_json_that_is_none_may_be_tried_again(make: Make) -> None:
    assert (await run(make("echo", '```json\n{"a": 1}\n```'), task(desired_format="json")))[0].output == '{"a": 1}'
    report, _ = await run(make("echo", "hello"), task(desired_format="json"))
    assert (report.code, report.retryable) == ("invalid_json", True)


async def test_a_task_that_takes_too_long_is_ended_with_all_that_it_started(make: Make, marker: str) -> None:
    script = f"trap '' INT; setsid sleep {marker} & (setsid sleep {marker} &) ; sleep {marker}"
    report, recording = await run(make("sh", "-c", script), task(timeout_sec=1))
    assert with_marker(marker) == []
    assert (report.code, report.retryable) == ("timeout", False)
    assert recording.of("error")[0]["code"] == "timeout"


@pytest.mark.parametrize(
    ("reason", "code", "retryable"),
    [
        (StopReason.CANCELLED, "cancelled", False),
        (StopReason.LEASE_LOST, "lease_lost", False),
        (StopReason.SHUTDOWN, "interrupted", True),
    ],
)
async def test_a_stop_ends_all_and_says_why(
    make: Make, marker: str, reason: StopReason, code: str, retryable: bool
) -> None:
    recording = record(make("sh", "-c", f"trap '' INT; setsid sleep {marker} & sleep {marker}"), task())
    await asyncio.to_thread(until, lambda: len(with_marker(marker)) == 2)
    recording.stop.set(reason)
    report = await recording.report()
    assert with_marker(marker) == []
    assert (report.status, report.code, report.retryable) == ("error", code, retryable)
    assert recording.of("error") == []


async def test_a_run_that_is_stopped_before_it_begins_starts_nothing(make: Make, tmp_path: Path) -> None:
    stop = StopSignal()
    stop.set(StopReason.CANCELLED)

    async def emit(event: RunEvent) -> None:
        pytest.fail(f"{event.type} was emitted")

    report = await make("touch", str(tmp_path / "ran")).run(task(), emit, stop)
    assert report.code == "cancelled"
    assert not await asyncio.to_thread((tmp_path / "ran").exists)


async def test_an_answer_that_was_whole_when_the_stop_came_is_kept(make: Make, marker: str) -> None:
    # The program has answered and gone; the tool that it left running holds the run up no longer.
    report, _ = await run(make("sh", "-c", f"echo done; setsid sleep {marker} & exit 0"), task())
    assert (report.status, report.output) == ("success", "done\n")
    assert report.metrics["leftovers_killed"] == 1
    assert with_marker(marker) == []


async def test_output_without_end_is_ended(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloom.worker.executors.growing_output.MAX_WITHOUT_FILE_BYTES", 1024 * 1024)
    report, _ = await run(make("yes"), task())
    assert (report.code, report.retryable) == ("output_too_large", False)


async def test_a_broken_spool_ends_the_child_before_it_is_heard_of(make: Make, marker: str) -> None:
    full = iter([True])

    async def emit(event: RunEvent) -> None:
        if next(full, False):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        await make("sh", "-c", f"echo x; sleep {marker}").run(task(), emit, StopSignal())
    assert with_marker(marker) == []


async def test_a_cancelled_run_leaves_nothing(make: Make, marker: str) -> None:
    recording = record(make("sh", "-c", f"trap '' INT; setsid sleep {marker} & sleep {marker}"), task())
    await asyncio.to_thread(until, lambda: len(with_marker(marker)) == 2)
    assert recording.running is not None
    recording.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await recording.running
    assert with_marker(marker) == []


async def test_where_no_command_is_named_the_demo_answers_and_says_so(make: Make) -> None:
    report, recording = await run(make(), task("What is\nBLOOM?"))
    assert report.status == "success"
    assert "demo, no model" in str(report.output)
    assert "What is BLOOM?" in str(report.output)
    assert "npm install -g @anthropic-ai/claude-code" in str(report.output)
    assert recording.text == report.output
    assert len(recording.of("text")) > 1


async def test_the_demo_answers_in_json_when_asked(make: Make) -> None:
    report: Report = (await run(make(), task('say "hi" ' * 50, desired_format="json")))[0]
    assert json.loads(str(report.output))["demo"] is True
