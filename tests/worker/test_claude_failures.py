"""The `claude` executor with the real CLI, where the API or the CLI fails."""

import asyncio
from pathlib import Path

import pytest
from recording import Make, run, task
from tests.stubs.anthropic import AnthropicStub

from bloom.worker.executors.interface import RunEvent, StopSignal

pytestmark = [pytest.mark.anyio, pytest.mark.claude]

NO_RETRY = {"CLAUDE_CODE_MAX_RETRIES": "0"}


# One of each way in which the CLI tells a failure; its other words are recorded (claude_samples, test_claude_errors.py).
@pytest.mark.parametrize(
    ("mode", "code", "retryable", "retry_after_sec"),
    [
        ("401", "login", False, None),
        ("429-200", "rate_limited", True, 60),
        ("404", "model_not_found", False, None),
        ("credit", "billing", False, None),
        ("promptlong", "prompt_too_long", False, None),
        ("refusal", "refusal", False, None),
        ("maxtok", "output_too_long", False, None),
        ("end-late", "truncated", True, None),
        ("drop-all", "overloaded", True, 30),
    ],
)
async def test_each_failure_of_the_api_has_its_code(
    claude: Make, mode: str, code: str, retryable: bool, retry_after_sec: int | None
) -> None:
    report, recording = await run(claude(mode, environment=NO_RETRY), task())
    assert (report.status, report.code, report.output) == ("error", code, None)
    assert (report.retryable, report.retry_after_sec) == (retryable, retry_after_sec)
    assert recording.events[-1].type == "error"
    assert recording.events[-1].data == {"code": code, "message": report.error_message}
    assert report.metrics["duration_ms"] > 0


@pytest.mark.parametrize("mode", ["drop", "sse-overloaded", "end"])
async def test_an_answer_that_broke_off_and_was_asked_for_again_is_whole(
    claude: Make, stub: AnthropicStub, mode: str
) -> None:
    # Where no block of content was finished the CLI asks once more without streaming: that answer is the whole one.
    report, recording = await run(claude(mode), task())
    assert [request.streamed for request in stub.requests] == [True, False]
    assert (report.status, report.output) == ("success", "part1 part2 ")
    assert [data["state"] for data in recording.of("status")] == ["started", "restarted"]


async def test_the_runtime_does_the_long_retries(claude: Make, stub: AnthropicStub) -> None:
    report, recording = await run(claude("500"), task())
    assert report.code == "server_error"
    assert len(stub.requests) == 3
    assert [data["attempt"] for data in recording.of("retry")] == [1, 2]
    assert recording.of("retry")[0]["error_status"] == 500


async def test_an_api_that_is_not_there_is_unreachable(claude: Make) -> None:
    nothing_listens = {"ANTHROPIC_BASE_URL": "http://127.0.0.1:9", **NO_RETRY}
    report, _ = await run(claude("ok", environment=nothing_listens), task())
    assert (report.code, report.retryable) == ("unreachable", True)


async def test_an_api_that_does_not_answer_is_unreachable_when_the_cli_gives_up(claude: Make) -> None:
    report, _ = await run(claude("hang", environment={"API_TIMEOUT_MS": "300", **NO_RETRY}), task())
    assert (report.code, report.retryable) == ("unreachable", True)


async def test_an_api_that_hangs_ends_with_the_time_of_the_task(claude: Make) -> None:
    report, recording = await run(claude("hang"), task(timeout_sec=2))
    assert (report.code, report.retryable) == ("timeout", False)
    assert "2 s" in str(report.error_message)
    assert recording.of("error")[0]["code"] == "timeout"


async def test_a_worker_that_is_not_logged_in_says_what_to_do(claude: Make, stub: AnthropicStub) -> None:
    report, _ = await run(claude("ok", environment={"ANTHROPIC_API_KEY": ""}), task())
    assert (report.code, report.retryable) == ("login", False)
    assert "run `claude` there and log in" in str(report.error_message)
    assert stub.requests == []


async def test_a_prompt_that_the_cli_refuses_is_too_long(claude: Make, stub: AnthropicStub) -> None:
    report, _ = await run(claude("ok"), task("x" * 11_000_000))
    assert (report.code, report.retryable) == ("prompt_too_long", False)
    assert stub.requests == []


async def test_a_prompt_of_several_megabytes_arrives(claude: Make, stub: AnthropicStub) -> None:
    report, _ = await run(claude("ok"), task("x" * 5_000_000))
    assert report.status == "success"
    assert "x" * 5_000_000 in stub.requests[0].text


async def test_a_cli_that_fails_is_quoted_without_keys(claude: Make) -> None:
    report, _ = await run(claude("ok", claude={"args": ["--sk-ant-0123456789"]}), task())
    assert (report.code, report.retryable) == ("cli_failed", False)
    assert "unknown option" in str(report.error_message)
    assert "[masked]" in str(report.error_message)
    assert "0123456789" not in str(report.error_message)


async def test_a_cli_that_is_not_there_is_said(claude: Make) -> None:
    report, _ = await run(claude("ok", claude={"path": "no-such-claude"}), task())
    assert (report.code, report.retryable) == ("cli_missing", True)


@pytest.mark.parametrize("content", ["#!/there/is/no/such/interpreter\n", "\x7fELF no program\n"])
async def test_a_cli_that_cannot_be_started_is_said(claude: Make, tmp_path: Path, content: str) -> None:
    broken = tmp_path / "broken"
    broken.write_text(content)
    broken.chmod(0o755)
    report, _ = await run(claude("ok", claude={"path": str(broken)}), task())
    assert (report.code, report.retryable) == ("cli_missing", True)


async def test_a_directory_that_is_not_there_is_said_without_its_path(claude: Make) -> None:
    agents = {"coder": {"working_directory": "/there/is/no/such/directory"}}
    report, _ = await run(claude("ok", agents=agents), task())
    assert (report.code, report.retryable) == ("workspace_failed", True)
    assert "/there" not in str(report.error_message)


async def test_a_broken_spool_is_not_taken_for_a_failure_of_the_cli(claude: Make) -> None:
    full = iter([True])

    async def emit(event: RunEvent) -> None:
        if next(full, False):
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        await claude("hang").run(task(), emit, StopSignal())


async def test_a_session_that_cannot_be_remembered_costs_no_answer(claude: Make, tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    await asyncio.to_thread((tmp_path / "workspace" / "sessions").write_text, "in the way")
    report, _ = await run(claude("ok"), task())
    assert report.status == "success"
