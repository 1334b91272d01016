"""What went wrong in a run of the Claude CLI, as a stable code and a sentence for a person.

The CLI's own words were recorded from version 2.1.197 (`tests/worker/claude_samples`). `is_error` decides, never
`subtype`: API errors come with the subtype "success". The API's status and the kind of the CLI's error message
(`authentication_failed`, `rate_limit`, ...) come before its English text, which may be reworded.
"""

import errno
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from bloom.worker.child import Exit
from bloom.worker.executors.claude_transcript import Transcript

RATE_LIMITED_SEC = 60
"""When a limit does not say when it ends."""

OVERLOADED_SEC = 30


@dataclass(frozen=True)
class Verdict:
    """Why a run failed. `message` is for a person; `detail` is the CLI's own text, not yet masked."""

    code: str
    message: str
    retryable: bool = False
    retry_after_sec: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class _Kind:
    message: str
    retryable: bool = False


CODES: Mapping[str, _Kind] = {
    "billing": _Kind("The Anthropic account of this worker has no credit: add some, or change the plan."),
    "budget_exceeded": _Kind("The task's budget (policy.budget) is used up: give it more, or ask for less."),
    "cli_failed": _Kind("The Claude CLI failed."),
    "cli_missing": _Kind("The Claude CLI could not be started on this worker: install it there.", retryable=True),
    "interrupted": _Kind("The Claude CLI was ended from outside before it had answered.", retryable=True),
    "invalid_request": _Kind("The Anthropic API does not accept the request."),
    "login": _Kind("The Claude CLI on this worker is not logged in: run `claude` there and log in."),
    "max_turns": _Kind("The agent used up its turns before it was done: raise `max_turns`, or ask for less."),
    "model_not_found": _Kind("The agent's model does not exist, or this worker's account may not use it."),
    "output_too_long": _Kind("The answer is longer than the model may write: ask for less at once."),
    "overloaded": _Kind("The Anthropic API is overloaded.", retryable=True),
    "prompt_too_long": _Kind("The prompt is too long for the model: shorten it, or give fewer files."),
    "rate_limited": _Kind("The usage limit of this worker's account is reached.", retryable=True),
    "refusal": _Kind("The model refused the task: reword it, or choose another model."),
    "server_error": _Kind("The Anthropic API has an error of its own.", retryable=True),
    "truncated": _Kind("The model's answer broke off in the middle.", retryable=True),
    "workspace_failed": _Kind("This worker could not start the Claude CLI.", retryable=True),
    "unreachable": _Kind("This worker cannot reach the Anthropic API: check its network and proxy.", retryable=True),
}

_BY_REASON = {
    "error_max_turns": "max_turns",
    "error_max_budget_usd": "budget_exceeded",
    "refusal": "refusal",
    "prompt_too_long": "prompt_too_long",
    "blocking_limit": "prompt_too_long",
    "aborted_streaming": "interrupted",
    "aborted_tools": "interrupted",
}
"""By the result's subtype, stop_reason or terminal_reason."""

_BY_KIND = {
    "authentication_failed": "login",
    "oauth_org_not_allowed": "login",
    "billing_error": "billing",
    "rate_limit": "rate_limited",
    "overloaded": "overloaded",
    "model_not_found": "model_not_found",
    "max_output_tokens": "output_too_long",
}
"""By the kind of the CLI's error message, where that is exact."""

_BY_STATUS = {
    401: "login",
    402: "billing",
    403: "login",
    404: "model_not_found",
    413: "prompt_too_long",
    429: "rate_limited",
    529: "overloaded",
}
"""By the API's status, where that is exact."""

_BY_TEXT = tuple(
    (re.compile(pattern, re.IGNORECASE), code)
    for pattern, code in (
        (r"prompt is too long|input exceeds 10 ?MB", "prompt_too_long"),
        (r"violate our usage policy", "refusal"),
        (r"credit balance is too low", "billing"),
        (r"usage limit reached|you've (hit|reached) your|out of usage", "rate_limited"),
        (r"not logged in|run /login|invalid api key", "login"),
        (r"mid-(response|stream)|response stalled|connection closed|connection to the api was lost", "truncated"),
        (r"\boverloaded\b", "overloaded"),
        (r"unable to connect|request timed out|connection error", "unreachable"),
    )
)
"""By the CLI's words. A 529 that it has retried comes as a "server_error" without a status, a cut stream too."""

_BY_VAGUE_KIND = {"server_error": "server_error", "invalid_request": "invalid_request"}

_MISSING = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.EISDIR, errno.ELOOP})
_KILLED = frozenset({0, 128 + 2, 128 + 9, 128 + 15})
_SESSION_LOST = re.compile(r"no conversation found|requires a valid session", re.IGNORECASE)
_MESSAGE_LOST = re.compile(r"no message found|unknown option '--resume-session-at", re.IGNORECASE)
_RESET_IN_TEXT = re.compile(r"\|(\d{10})\b")


def session_is_lost(transcript: Transcript, stderr: str) -> bool:
    """Whether the CLI says that the session it should resume does not exist."""
    return transcript.model is None and bool(_SESSION_LOST.search(f"{_texts(transcript.result or {})}\n{stderr}"))


def message_is_lost(transcript: Transcript, stderr: str) -> bool:
    """Whether the CLI says that the message to go on from does not exist, or that it cannot go on from a message."""
    return transcript.model is None and bool(_MESSAGE_LOST.search(f"{_texts(transcript.result or {})}\n{stderr}"))


def judge(transcript: Transcript, ended: Exit, stderr: str) -> Verdict | None:
    """Why the run failed; None when it succeeded. Looks at the clock for how long a limit lasts."""
    result = transcript.result
    if result is None:
        return _verdict(_code_without_result(ended, stderr), stderr)
    text = _texts(result)
    # A subtype that says success says nothing; older versions do not mark every error as one.
    if result.get("is_error") or str(result.get("subtype")).startswith("error_"):
        code = _code_of_error(result, transcript.error_kind, text)
        return _verdict(code, text or stderr, _retry_after(code, transcript, text))
    return _verdict("truncated") if transcript.cut_off else None


def _verdict(code: str, detail: str = "", retry_after_sec: int | None = None) -> Verdict:
    kind = CODES[code]
    return Verdict(code, kind.message, kind.retryable, retry_after_sec, detail)


def _code_of_error(result: Mapping[str, Any], kind: str | None, text: str) -> str:
    reasons = (result.get("subtype"), result.get("stop_reason"), result.get("terminal_reason"))
    status: Any = result.get("api_error_status")
    exact = (*(_BY_REASON.get(str(reason)) for reason in reasons), _BY_KIND.get(str(kind)), _BY_STATUS.get(status))
    for code in (*exact, _code_of_text(text), _BY_VAGUE_KIND.get(str(kind))):
        if code is not None:
            return code
    if isinstance(status, int):
        return "server_error" if status >= 500 else "invalid_request"
    return "cli_failed"


def _code_of_text(text: str) -> str | None:
    return next((code for pattern, code in _BY_TEXT if pattern.search(text)), None)


def _code_without_result(ended: Exit, stderr: str) -> str:
    if ended.errno is not None:
        return "cli_missing" if ended.errno in _MISSING else "workspace_failed"
    if ended.code is None or ended.code in _KILLED:
        return "interrupted"
    return _code_of_text(stderr) or "cli_failed"


def _texts(result: Mapping[str, Any]) -> str:
    errors: Any = result.get("errors")
    parts = [result.get("result"), *(cast(list[Any], errors) if isinstance(errors, list) else ())]
    return "\n".join(part for part in parts if isinstance(part, str))


def _retry_after(code: str, transcript: Transcript, text: str) -> int | None:
    if code == "overloaded":
        return OVERLOADED_SEC
    if code != "rate_limited":
        return None
    resets_at: Any = transcript.rate_limit.get("resetsAt")
    if not isinstance(resets_at, int | float) or transcript.rate_limit.get("status") != "rejected":
        in_text = _RESET_IN_TEXT.search(text)
        resets_at = int(in_text.group(1)) if in_text else None
    if resets_at is not None:
        return max(1, round(resets_at - time.time()))
    delay: Any = transcript.last_retry.get("retry_delay_ms")
    if transcript.last_retry.get("error_status") == 429 and isinstance(delay, int | float):
        return max(1, round(delay / 1000))
    return RATE_LIMITED_SEC
