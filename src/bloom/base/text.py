"""What text PostgreSQL and UTF-8 can carry: no NUL character, no lone surrogate."""

import re
from typing import Any, cast

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether `text` can be stored and sent as it is."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_storable(text: str) -> tuple[str, int]:
    """`text` with each NUL and lone surrogate replaced by U+FFFD, and how many there were."""
    return _UNSTORABLE.subn("\N{REPLACEMENT CHARACTER}", text)


def is_storable_json(value: Any) -> bool:
    """Whether every text in the JSON value `value`, keys included, can be stored and sent as it is."""
    waiting: list[Any] = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, str):
            if not is_storable(current):
                return False
        elif isinstance(current, dict):
            pairs = cast("dict[str, Any]", current)
            waiting.extend(pairs.keys())
            waiting.extend(pairs.values())
        elif isinstance(current, list):
            waiting.extend(cast("list[Any]", current))
    return True
