"""What happened in the runs of a task, made fit to be read: small pieces of text joined, the rest with a word on what it is."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bloom.base.ids import LeaseId
from bloom.tasks.model import Attempt, Event
from bloom.ui.languages import Language
from bloom.ui.notices import N_

_JOINED = frozenset({"text", "thinking"})
_SHORT = 100
_TELLING = ("command", "file_path", "path", "pattern", "url", "query", "description", "prompt")
"""Of a tool's input, what says most about the call."""

_STATES = {
    "started": N_("The run has begun."),
    "restarted": N_("The answer broke off and is sent again."),
    "gap": N_("Some of what was said is missing: the worker could not keep it."),
    "refused": N_("Some of what was said is missing: the runtime did not take it."),
    "output_continues_unseen": N_("The output is long and goes on unseen; all of it will be in the result."),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing to be shown. `kind`: `attempt`, `text`, `thinking`, `tool`, `tool_result`, `note`, `problem` or `other`."""

    kind: str
    text: str = ""
    title: str = ""
    bad: bool = False
    attempt: Attempt | None = None
    number: int = 0


def pieces_of(
    events: Iterable[Event], attempts: Sequence[Attempt], language: Language, *, after: LeaseId | None = None
) -> list[Piece]:
    """`events` in order. `after`: the lease of what was shown before them."""
    numbers = {attempt.lease_id: number for number, attempt in enumerate(attempts, 1)}
    pieces: list[Piece] = []
    kind, gathered = "", list[str]()

    def flush() -> None:
        if gathered:
            pieces.append(Piece(kind, "".join(gathered)))
            gathered.clear()

    for event in events:
        if event.lease_id != after or event.type not in _JOINED or event.type != kind:
            flush()
        if event.lease_id != after:
            after = event.lease_id
            number = numbers.get(after, 0)
            pieces.append(Piece("attempt", attempt=attempts[number - 1] if number else None, number=number))
        kind = event.type
        if kind in _JOINED:
            gathered.append(_text(event.data.get("text")))
        else:
            pieces.append(_piece(event, language))
    flush()
    return pieces


def _piece(event: Event, language: Language) -> Piece:
    data = event.data
    match event.type:
        case "tool_use":
            return Piece("tool", _pretty(data.get("input")), f"{_text(data.get('name'))} {_telling(data.get('input'))}")
        case "tool_result":
            return Piece("tool_result", _text(data.get("content")), bad=bool(data.get("is_error")))
        case "retry":
            words = language.say(N_("The model did not answer; it is asked again (try {attempt} of {most})."))
            told = words.format(attempt=_text(data.get("attempt")), most=_text(data.get("max_retries")))
            return Piece("problem", _text(data.get("error")), told)
        case "rate_limit" if data.get("status") == "allowed":
            return Piece("note", title=language.say(N_("Within the limits of the account.")))
        case "rate_limit":
            return Piece(
                "problem", _text(data.get("limit")), language.say(N_("The account's limit is near or reached."))
            )
        case "error":
            return Piece(
                "problem", _text(data.get("code")), _text(data.get("message")) or language.say(N_("Error")), True
            )
        case "status" if _text(data.get("state")) in _STATES:
            more = data.get("model") or data.get("reason") or ""
            return Piece("note", _text(more), language.say(_STATES[_text(data.get("state"))]))
        case _:
            return Piece("other", _pretty(data), event.type)


def _telling(given: Any) -> str:
    if not isinstance(given, Mapping):
        return ""
    values: list[Any] = [given.get(name) for name in _TELLING]  # pyright: ignore[reportUnknownMemberType]
    found = next((value for value in values if isinstance(value, str)), "")
    line = " ".join(found[: 4 * _SHORT].split())
    return line if len(line) <= _SHORT else f"{line[:_SHORT]}…"


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
