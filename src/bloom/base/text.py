"""What text PostgreSQL and UTF-8 can carry: no NUL character, no lone surrogate."""

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def is_storable(text: str) -> bool:
    """Whether `text` can be stored and sent as it is."""
    return _UNSTORABLE.search(text) is None


def make_storable(text: str) -> tuple[str, int]:
    """`text` with each NUL and lone surrogate replaced by U+FFFD, and how many there were."""
    return _UNSTORABLE.subn("\N{REPLACEMENT CHARACTER}", text)
