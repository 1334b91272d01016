"""`desired_format: json`: what counts as a JSON answer."""

import json
import re

INSTRUCTION = "Answer with exactly one JSON value and nothing else: no prose around it and no code fence."
"""For the system prompt."""

COMPLAINT = "The answer should be one JSON value and is none."

_FENCED = re.compile(r"```json[ \t]*\r?\n(.*?)\r?\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
_ALL_FENCED = re.compile(r"```(?:json)?[ \t]*\r?\n(.*)```", re.DOTALL | re.IGNORECASE)


def json_answer(text: str) -> str | None:
    """The JSON text of an answer: the whole of it, or its only fenced ```json block; None when neither parses."""
    stripped = text.strip()
    if _is_json(stripped):
        return stripped
    whole = _ALL_FENCED.fullmatch(stripped)
    blocks = _FENCED.findall(stripped)
    for candidate in ([whole.group(1)] if whole else []) + (blocks if len(blocks) == 1 else []):
        if _is_json(candidate):
            return candidate.strip()
    return None


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")  # RFC 8259, section 6
