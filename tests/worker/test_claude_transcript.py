"""From the CLI's objects to events and facts."""

from collections import Counter
from typing import Any

import pytest
from samples import DIRECTORY, read, sample

from bloom.worker.executors.claude_metrics import metrics_of
from bloom.worker.executors.claude_transcript import Transcript
from bloom.worker.executors.interface import RunEvent


def texts(events: list[RunEvent]) -> str:
    return "".join(event.data["text"] for event in events if event.type == "text")


def of_type(events: list[RunEvent], kind: str) -> list[dict[str, Any]]:
    return [event.data for event in events if event.type == kind]


def test_streamed_text_is_told_once_and_is_the_answer() -> None:
    transcript, events = read(sample("stream-partial"))
    assert [event.type for event in events] == ["status", "text", "text", "text", "text"]
    assert texts(events) == transcript.output == "Hello from the stub."
    assert events[0].data == {
        "state": "started",
        "session_id": transcript.session_id,
        "model": "claude-opus-4-8[1m]",
    }


def test_text_that_is_not_streamed_is_told_all_the_same() -> None:
    transcript, events = read(sample("stream-ok"))
    assert texts(events) == transcript.output == "Hello from the stub."


def test_the_use_of_a_tool_is_told_with_its_result_cut() -> None:
    _, events = read(sample("bashlong"))
    assert of_type(events, "tool_use") == [
        {"id": "toolu_392b74c55a3344fa8549", "name": "Bash", "input": {"command": "seq 1 200000"}}
    ]
    (result,) = of_type(events, "tool_result")
    assert (result["id"], result["is_error"]) == ("toolu_392b74c55a3344fa8549", False)
    assert result["content"].startswith("<persisted-output>")
    refused = of_type(read(sample("permdenied"))[1], "tool_result")[0]
    assert refused["is_error"] is True


def test_large_inputs_and_results_of_tools_are_cut_to_sixteen_kib() -> None:
    use = {"type": "tool_use", "id": "t", "name": "Write", "input": {"content": "x" * 20_000}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "y" * 20_000}]}
    transcript = Transcript()
    lines: list[dict[str, Any]] = [
        {"type": "assistant", "message": {"id": "m", "content": [use]}},
        {"type": "user", "message": {"content": [result, "text", {"type": "text"}]}},
    ]
    used, answered = (event.data for line in lines for event in transcript.take(line))
    assert used["input"] == {"truncated": True, "beginning": '{"content": "' + "x" * (16384 - 13)}
    assert (len(answered["content"]), answered["truncated"]) == (16384, True)


def test_a_retry_and_a_limit_are_told() -> None:
    transcript, events = read(sample("e529"))
    assert [retry["error_status"] for retry in of_type(events, "retry")] == [529, 529]
    assert transcript.error_kind == "server_error"
    _, events = read(sample("subscription-limit"))
    (limit,) = of_type(events, "rate_limit")
    assert limit["status"] == "rejected"
    assert limit["limit"] == "five_hour"
    assert limit["resets_at"] % 1000 == 0
    assert limit["resets_at"] > 10**12


def test_messages_that_the_cli_makes_up_are_not_told_as_text() -> None:
    for name in ("e400", "erefusal", "not-logged-in"):
        assert "API Error" not in texts(read(sample(name))[1])
        assert "logged in" not in texts(read(sample(name))[1])


@pytest.mark.parametrize(
    ("name", "cut_off"),
    [("stream-partial", False), ("end-late", True), ("drop-late", True), ("drop-partial", False), ("end-early", False)],
)
def test_an_answer_is_cut_off_unless_its_message_ended_or_came_again_whole(name: str, cut_off: bool) -> None:
    assert read(sample(name))[0].cut_off is cut_off


def test_an_answer_that_comes_again_is_announced() -> None:
    transcript, events = read(sample("drop-partial"))
    assert [status["state"] for status in of_type(events, "status")] == ["started", "restarted"]
    assert transcript.output == "part1 part2 "


def test_an_answer_in_several_parts_is_put_together() -> None:
    # The CLI goes on by itself after the output limit; its result is the last part only.
    transcript, events = read(sample("maxtok-continued"))
    assert transcript.output == texts(events) == "Hello from the stub.Hello from the stub."


def test_what_subagents_say_is_not_the_answer() -> None:
    transcript = Transcript()
    block: dict[str, Any] = {"type": "tool_use", "id": "t", "name": "Read", "input": {}}
    message: dict[str, Any] = {"id": "m", "content": [{"type": "text", "text": "to myself"}, block]}
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "to myself"}}
    lines: list[dict[str, Any]] = [
        {"type": "stream_event", "parent_tool_use_id": "task", "event": {"type": "message_start", "message": {}}},
        {"type": "stream_event", "parent_tool_use_id": "task", "event": delta},
        {"type": "assistant", "parent_tool_use_id": "task", "message": message},
    ]
    events = [event for line in lines for event in transcript.take(line)]
    assert [event.data for event in events] == [{"id": "t", "name": "Read", "input": {}, "parent_id": "task"}]
    assert not transcript.cut_off


def test_what_it_does_not_know_it_passes_over() -> None:
    transcript = Transcript()
    lines: list[dict[str, Any]] = [
        {},
        {"type": "tomorrow"},
        {"type": "system", "subtype": "tomorrow"},
        {"type": "stream_event", "event": None},
        {"type": "stream_event", "event": {"type": "message_stop"}},
        {"type": "assistant", "message": {"content": "text"}},
        {"type": "assistant", "message": {"content": [None, {"type": "tomorrow"}]}},
        {"type": "user", "message": {"content": "text"}},
        {"type": "rate_limit_event"},
    ]
    assert Counter(event.type for line in lines for event in transcript.take(line)) == {"rate_limit": 1}


def test_metrics_are_those_of_the_result() -> None:
    transcript, _ = read(sample("maxturns"))
    assert metrics_of(transcript, resumed=True, forked=False) == {
        "tokens_used": 405,
        "input_tokens": 300,
        "output_tokens": 15,
        "cache_creation_input_tokens": 30,
        "cache_read_input_tokens": 60,
        "cost_usd": 0.0020924999999999997,
        "num_turns": 4,
        "api_duration_ms": 96,
        "session_id": transcript.session_id,
        "model": "claude-opus-4-8[1m]",
        "resumed": True,
        "forked": False,
        "permission_denials": 0,
    }
    assert metrics_of(read(sample("permdenied"))[0], resumed=False, forked=False)["permission_denials"] == 1


def test_tokens_of_a_run_without_a_result_are_counted_as_streamed() -> None:
    metrics = metrics_of(read(sample("sigterm"))[0], resumed=False, forked=False)
    assert (metrics["tokens_used"], metrics["input_tokens"], metrics["cost_usd"]) == (130, 100, None)


@pytest.mark.parametrize("name", sorted(path.stem for path in DIRECTORY.iterdir()))
def test_metrics_of_every_sample_say_how_many_tokens(name: str) -> None:
    tokens = metrics_of(read(sample(name))[0], resumed=False, forked=False)["tokens_used"]
    assert tokens is None or tokens > 0
