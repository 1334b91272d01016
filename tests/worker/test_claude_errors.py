"""Every recorded end of a run gets its code; and those that could not be recorded, by hand."""

import errno
import json
import time
from typing import Any

import pytest
from samples import DIRECTORY, read, sample

from bloom.worker.child import Exit
from bloom.worker.executors.claude_errors import CODES, judge, message_is_lost, session_is_lost
from bloom.worker.executors.claude_transcript import Transcript

# sample → exit status (or signal, negative) → code (None for success), retryable, retry_after_sec
TABLE: dict[str, tuple[int, str | None, bool, int | None]] = {
    "bashlong": (0, None, False, None),
    "budget": (1, "budget_exceeded", False, None),
    "drop-all": (1, "overloaded", True, 30),
    "drop-late": (1, "truncated", True, None),
    "drop-partial": (0, None, False, None),
    "e400": (1, "invalid_request", False, None),
    "e401": (-9, "interrupted", True, None),
    "e401-r0": (1, "login", False, None),
    "e403": (1, "login", False, None),
    "e404": (1, "model_not_found", False, None),
    "e429-120": (1, "rate_limited", True, 60),
    "e429-5": (1, "rate_limited", True, 38),
    "e500": (1, "server_error", True, None),
    "e529": (1, "overloaded", True, 30),
    "ecredit": (1, "billing", False, None),
    "edrop": (0, None, False, None),
    "ehang-5s": (1, "unreachable", True, None),
    "emaxtok": (1, "output_too_long", False, None),
    "end-early": (0, None, False, None),
    "end-late": (0, "truncated", True, None),
    "epromptlong": (1, "prompt_too_long", False, None),
    "erefusal": (1, "refusal", False, None),
    "esse": (0, None, False, None),
    "fork": (0, None, False, None),
    "jschema": (0, None, False, None),
    "jschema-bad": (0, None, False, None),
    "json-ok": (0, None, False, None),
    "maxtok-continued": (0, None, False, None),
    "maxturns": (1, "max_turns", False, None),
    "mcp": (0, None, False, None),
    "no-session": (1, "cli_failed", False, None),
    "not-logged-in": (1, "login", False, None),
    "permdenied": (0, None, False, None),
    "refusal-partial": (1, "refusal", False, None),
    "refused": (1, "unreachable", True, None),
    "resume": (0, None, False, None),
    "sigint": (1, "interrupted", True, None),
    "sigkill": (-9, "interrupted", True, None),
    "sigterm": (143, "interrupted", True, None),
    "sse-late": (1, "overloaded", True, 30),
    "stream-ok": (0, None, False, None),
    "stream-partial": (0, None, False, None),
}


def ended(status: int) -> Exit:
    return Exit(code=status) if status >= 0 else Exit(signal=-status)


def transcript_of(result: dict[str, Any] | None, kind: str | None = None, **fields: Any) -> Transcript:
    transcript = Transcript()
    transcript.result = result
    transcript.error_kind = kind
    for name, value in fields.items():
        setattr(transcript, name, value)
    return transcript


def api_error(text: str, status: int | None = None) -> dict[str, Any]:
    return {"type": "result", "subtype": "success", "is_error": True, "api_error_status": status, "result": text}


@pytest.mark.parametrize("name", sorted(path.stem for path in DIRECTORY.iterdir() if path.stem != "subscription-limit"))
def test_every_recorded_end_has_its_code(name: str) -> None:
    status, code, retryable, retry_after_sec = TABLE[name]
    transcript, _ = read(sample(name))
    verdict = judge(transcript, ended(status), "")
    if code is None:
        assert verdict is None
    else:
        assert verdict is not None
        assert (verdict.code, verdict.retryable, verdict.retry_after_sec) == (code, retryable, retry_after_sec)


def test_a_limit_that_says_when_it_ends_is_waited_for() -> None:
    transcript, _ = read(sample("subscription-limit"))
    resets_at = int(time.time()) + 5000
    transcript.rate_limit = {**transcript.rate_limit, "resetsAt": resets_at}
    verdict = judge(transcript, ended(1), "")
    assert verdict is not None
    assert verdict.code == "rate_limited"
    assert verdict.retry_after_sec is not None
    assert 4900 < verdict.retry_after_sec <= 5000
    assert "You've hit your session limit" in verdict.detail


def test_a_limit_that_has_ended_meanwhile_is_tried_again_at_once() -> None:
    transcript, _ = read(sample("subscription-limit"))
    transcript.rate_limit = {**transcript.rate_limit, "resetsAt": int(time.time()) - 10}
    verdict = judge(transcript, ended(1), "")
    assert verdict is not None
    assert (verdict.code, verdict.retry_after_sec) == ("rate_limited", 1)


def test_the_end_of_a_limit_is_also_read_from_the_text_of_older_versions() -> None:
    text = f"Claude AI usage limit reached|{int(time.time()) + 5000}"
    verdict = judge(transcript_of(api_error(text)), ended(1), "")
    assert verdict is not None
    assert verdict.code == "rate_limited"
    assert verdict.retry_after_sec is not None
    assert 4900 < verdict.retry_after_sec <= 5000


@pytest.mark.parametrize(
    ("result", "kind", "code"),
    [
        (api_error("OAuth token has expired · Please run /login", 401), "authentication_failed", "login"),
        (api_error("Your organization does not allow OAuth", 403), "oauth_org_not_allowed", "login"),
        (api_error("API Error: Request too large", 413), "invalid_request", "prompt_too_long"),
        (api_error("API Error: 529 Overloaded", 529), "server_error", "overloaded"),
        (api_error("API Error: 502 Bad gateway", 502), "server_error", "server_error"),
        (api_error("API Error: 503 no healthy upstream", 503), "unknown", "server_error"),
        (api_error("API Error: Response stalled mid-stream. The response above may be incomplete."), None, "truncated"),
        (api_error("API Error: Connection to the API was lost (ECONNRESET)."), "server_error", "truncated"),
        (api_error("Unable to connect to API: SSL certificate has expired"), "server_error", "unreachable"),
        (api_error("something that no version has said yet"), "unknown", "cli_failed"),
        ({"subtype": "error_during_execution", "is_error": True, "errors": ["something new"]}, None, "cli_failed"),
        ({"subtype": "error_during_execution", "is_error": True, "errors": "not a list"}, None, "cli_failed"),
        ({"subtype": "error_max_turns", "is_error": False}, None, "max_turns"),
    ],
)
def test_what_could_not_be_recorded_is_told_apart_too(result: dict[str, Any], kind: str | None, code: str) -> None:
    verdict = judge(transcript_of(result, kind), ended(1), "")
    assert verdict is not None
    assert verdict.code == code
    assert verdict.retryable == CODES[code].retryable


@pytest.mark.parametrize(
    ("end", "stderr", "code"),
    [
        (Exit(code=1), "Error: piped stdin input exceeds 10MB. Pass large content as a file path", "prompt_too_long"),
        (Exit(code=1), "Invalid API key · Please run /login", "login"),
        (Exit(code=1), "error: unknown option '--nosuchflag'", "cli_failed"),
        (Exit(code=0), "", "interrupted"),
        (Exit(code=137), "", "interrupted"),
        (Exit(signal=9), "", "interrupted"),
        (Exit(), "", "interrupted"),
        (Exit(errno=2), "No such file or directory", "cli_missing"),
        (Exit(errno=errno.ENOMEM), "Cannot allocate memory", "workspace_failed"),
        (Exit(errno=errno.E2BIG), "Argument list too long", "workspace_failed"),
    ],
)
def test_an_end_without_a_result_is_judged_by_exit_and_stderr(end: Exit, stderr: str, code: str) -> None:
    verdict = judge(transcript_of(None), end, stderr)
    assert verdict is not None
    assert (verdict.code, verdict.detail) == (code, stderr)


def test_only_a_resumed_run_that_never_began_has_lost_its_session() -> None:
    transcript, _ = read(sample("no-session"))
    assert session_is_lost(transcript, "")
    assert session_is_lost(transcript_of(None), "No conversation found with session ID: 6b2ec4c8")
    assert not session_is_lost(read(sample("e400"))[0], "")
    begun = transcript_of(api_error("No conversation found, says the model"), model="claude")
    assert not session_is_lost(begun, "")


def test_a_message_to_go_on_from_may_be_lost_or_unknown_to_the_cli() -> None:
    assert message_is_lost(transcript_of(None), "No message found with message.uuid of: 6b2ec4c8")
    assert message_is_lost(transcript_of(None), "error: unknown option '--resume-session-at=6b2ec4c8'")
    assert not message_is_lost(read(sample("no-session"))[0], "")


def test_each_code_says_what_happened_to_a_person() -> None:
    for code, kind in CODES.items():
        assert kind.message.endswith("."), code
        assert json.dumps(kind.message).isascii(), code
