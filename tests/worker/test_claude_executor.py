"""The `claude` executor with the real CLI against the stub: answers, tools, sessions, formats, limits."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from recording import Make, Recording, record, run, task
from tests.stubs.anthropic import AnthropicStub

pytestmark = [pytest.mark.anyio, pytest.mark.claude]


def started(recording: Recording) -> dict[str, Any]:
    return next(data for data in recording.of("status") if data["state"] == "started")


async def test_an_answer_is_streamed_reported_and_accounted_for(claude: Make, stub: AnthropicStub) -> None:
    report, recording = await run(claude("ok"), task("the prompt"))
    assert (report.status, report.output, report.code, report.error_message) == (
        *("success", "Hello from the stub.", None, None),
    )
    assert recording.text == "Hello from the stub."
    assert "the prompt" in stub.requests[0].text
    metrics = report.metrics
    assert (metrics["tokens_used"], metrics["input_tokens"], metrics["output_tokens"]) == (135, 100, 5)
    assert (metrics["cache_creation_input_tokens"], metrics["cache_read_input_tokens"]) == (10, 20)
    assert (metrics["num_turns"], metrics["resumed"], metrics["forked"], metrics["permission_denials"]) == (
        *(1, False, False, 0),
    )
    assert metrics["cost_usd"] > 0
    assert metrics["duration_ms"] > metrics["api_duration_ms"] > 0
    assert metrics["session_id"] == started(recording)["session_id"]
    assert metrics["model"] == started(recording)["model"]


async def test_the_agent_decides_model_system_prompt_and_tools(claude: Make, stub: AnthropicStub) -> None:
    agent = {
        "model": "claude-of-the-agent",
        "append_system_prompt": "- Be brief.\n--model=other",
        "allowed_tools": ["Read", "Bash(git log *)"],
        "disallowed_tools": ["WebFetch", "WebSearch"],
        "permission_mode": "acceptEdits",
        "max_turns": 3,
        "env": {"ANTHROPIC_CUSTOM_HEADERS": "x-of-agent: yes"},
    }
    executor = claude("ok", agents={"coder": agent}, claude={"args": ["--strict-mcp-config"]})
    report, _ = await run(executor, task(desired_format="text", budget=5))
    assert report.status == "success"
    request = stub.requests[0]
    assert request.body["model"] == "claude-of-the-agent"
    assert "- Be brief.\\n--model=other" in json.dumps(request.body["system"])
    assert "JSON value" not in json.dumps(request.body["system"])
    assert {"Read", "Bash"} <= {tool["name"] for tool in request.body["tools"]}
    assert not {"WebFetch", "WebSearch"} & {tool["name"] for tool in request.body["tools"]}
    assert request.headers["x-of-agent"] == "yes"


async def test_an_answer_of_two_megabytes_comes_through_whole(claude: Make) -> None:
    report, recording = await run(claude("long-2000000"), task())
    assert report.output == recording.text == "x" * 2_000_000
    assert max(len(data["text"]) for data in recording.of("text")) <= 16 * 1024


async def test_the_use_of_a_tool_is_told(claude: Make, tmp_path: Path) -> None:
    executor = claude("bash-echo from the tool", agents={"default": {"allowed_tools": ["Bash"]}})
    report, recording = await run(executor, task())
    assert report.status == "success"
    assert report.metrics["num_turns"] == 2
    (used,) = recording.of("tool_use")
    (result,) = recording.of("tool_result")
    assert (used["name"], used["input"]["command"]) == ("Bash", "echo from the tool")
    assert result == {"id": used["id"], "is_error": False, "content": "from the tool"}


async def test_a_tool_that_is_not_allowed_is_refused_and_counted(claude: Make, tmp_path: Path) -> None:
    report, recording = await run(claude(f"bash-touch {tmp_path}/denied"), task())
    assert report.status == "success"
    assert report.metrics["permission_denials"] == 1
    assert recording.of("tool_result")[0]["is_error"] is True
    assert not await asyncio.to_thread((tmp_path / "denied").exists)


async def test_a_context_goes_on_in_its_session(claude: Make, stub: AnthropicStub) -> None:
    executor = claude("ok")
    first, _ = await run(executor, task("words of the first turn", context_id="context"))
    second, recording = await run(executor, task("the second turn", context_id="context"))
    other, _ = await run(executor, task("the second turn", context_id="other"))
    assert "words of the first turn" in stub.requests[1].text
    assert "words of the first turn" not in stub.requests[2].text
    assert second.metrics["session_id"] == first.metrics["session_id"] != other.metrics["session_id"]
    assert [report.metrics["resumed"] for report in (first, second, other)] == [False, True, False]
    assert (started(recording)["resumed"], started(recording)["forked"]) == (True, False)


async def test_a_session_that_runs_is_forked(claude: Make, stub: AnthropicStub) -> None:
    first, _ = await run(claude("ok"), task("words of the first turn", context_id="context"))
    executor = claude("held")
    second = record(executor, task("words of the second turn", context_id="context"))
    await second.until(lambda event: event.type == "text")
    third = record(executor, task("words of the third turn", context_id="context"))
    await third.until(lambda event: event.type == "text")
    stub.release()
    reports = [await second.report(), await third.report()]
    assert [report.status for report in reports] == ["success", "success"]
    assert [report.metrics["forked"] for report in reports] == [False, True]
    assert reports[0].metrics["session_id"] == first.metrics["session_id"] != reports[1].metrics["session_id"]
    assert ["words of the first turn" in request.text for request in stub.requests] == [True, True, True]
    assert "words of the second turn" not in stub.requests[2].text


async def test_two_first_runs_of_a_context_make_a_session_each(claude: Make, stub: AnthropicStub) -> None:
    executor = claude("held")
    runs = [record(executor, task("hello", context_id="context")) for _ in range(2)]
    await asyncio.to_thread(stub.wait_for_requests, 2)
    stub.release()
    reports = [await one.report() for one in runs]
    assert [report.status for report in reports] == ["success", "success"]
    assert [report.metrics["resumed"] for report in reports] == [False, False]
    assert reports[0].metrics["session_id"] != reports[1].metrics["session_id"]
    last, _ = await run(executor, task("hello", context_id="context"))
    assert last.metrics["session_id"] in [report.metrics["session_id"] for report in reports]


async def test_a_session_that_is_gone_is_replaced_within_the_attempt(
    claude: Make, stub: AnthropicStub, tmp_path: Path
) -> None:
    executor = claude("ok")
    first, _ = await run(executor, task("first", context_id="context"))
    gone = next((tmp_path / "home").rglob(f"{first.metrics['session_id']}.jsonl"))
    gone.unlink()
    second, recording = await run(executor, task("second", context_id="context"))
    assert second.status == "success"
    assert second.metrics["resumed"] is False
    assert second.metrics["session_id"] != first.metrics["session_id"]
    assert [data["state"] for data in recording.of("status")] == ["new_session", "started"]
    third, _ = await run(executor, task("third", context_id="context"))
    assert third.metrics["session_id"] == second.metrics["session_id"]


async def test_a_bad_run_is_not_remembered(claude: Make) -> None:
    await run(claude("400"), task(context_id="context"))
    report, _ = await run(claude("ok"), task(context_id="context"))
    assert report.metrics["resumed"] is False


async def test_what_a_bad_run_put_into_the_session_is_not_carried_on(claude: Make, stub: AnthropicStub) -> None:
    await run(claude("ok"), task("words of the first turn", context_id="context"))
    bad, _ = await run(claude("400"), task("words of the bad turn", context_id="context"))
    good, _ = await run(claude("ok"), task("words of the last turn", context_id="context"))
    assert bad.metrics["session_id"] == good.metrics["session_id"]
    assert "words of the bad turn" in stub.requests[1].text
    assert "words of the first turn" in stub.requests[2].text
    assert "words of the bad turn" not in stub.requests[2].text


async def test_a_cli_that_cannot_go_on_from_a_message_goes_on_from_the_end(
    claude: Make, stub: AnthropicStub, claude_program: Path, tmp_path: Path
) -> None:
    await run(claude("ok"), task("words of the first turn", context_id="context"))
    older = tmp_path / "older-claude"
    refusal = (
        """case "$*" in *resume-session-at*) echo "error: unknown option '--resume-session-at=x'" >&2; exit 1; esac"""
    )
    older.write_text(f'#!/bin/sh\n{refusal}\nexec {claude_program} "$@"\n')
    older.chmod(0o755)
    report, recording = await run(claude("ok", claude={"path": str(older)}), task("more", context_id="context"))
    assert (report.status, report.metrics["resumed"]) == ("success", True)
    assert "words of the first turn" in stub.requests[1].text
    assert [data["state"] for data in recording.of("status")] == ["started"]


async def test_json_is_asked_for_and_checked(claude: Make, stub: AnthropicStub) -> None:
    good, _ = await run(claude('say-```json\n{"a": 1}\n```'), task(desired_format="json"))
    assert (good.status, good.output) == ("success", '{"a": 1}')
    assert "exactly one JSON value" in json.dumps(stub.requests[0].body["system"])
    bad, _ = await run(claude("ok"), task(desired_format="json"))
    assert (bad.code, bad.retryable, bad.output) == ("invalid_json", True, None)


async def test_a_budget_is_kept(claude: Make) -> None:
    report, _ = await run(claude("ok"), task(budget=0.0001))
    assert (report.code, report.retryable) == ("budget_exceeded", False)


async def test_turns_are_limited(claude: Make) -> None:
    executor = claude("loop", agents={"coder": {"max_turns": 2, "allowed_tools": ["Bash"]}})
    report, _ = await run(executor, task())
    assert (report.code, report.retryable) == ("max_turns", False)


async def test_an_answer_that_needs_several_messages_is_put_together(claude: Make) -> None:
    report, recording = await run(claude("maxtok-1"), task())
    assert report.output == recording.text == "Hello from the stub." * 2


async def test_a_configured_directory_has_sessions_of_its_own(claude: Make, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    executor = claude("bash-pwd", agents={"coder": {"working_directory": str(tmp_path / "project")}})
    first, recording = await run(executor, task(context_id="one"))
    assert recording.of("tool_result")[0]["content"] == str(tmp_path / "project")
    assert (await run(executor, task(context_id="one")))[0].metrics["session_id"] == first.metrics["session_id"]
    elsewhere, _ = await run(claude("ok"), task(context_id="one"))
    assert elsewhere.metrics["resumed"] is False
