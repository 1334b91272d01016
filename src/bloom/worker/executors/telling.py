"""Text from a child made fit for an error message: short, and without what looks like a key."""

import re
from collections.abc import Iterable

TAIL_CHARS = 2 * 1024
MASK = "[masked]"

_SECRETS = (
    re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"),
    re.compile(r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[a-z]-|AKIA|AIza|ya29\.)[A-Za-z0-9_.-]{8,}"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"),
    re.compile(r"(?i)\b(?<=bearer )[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"(?i)(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"""(?ix)
        \b [\w-]* (?: api[_-]?key | secret | password | passwd | token | authorization ) [\w-]*
        ["']? \s* [:=] \s* ["']? (?:basic\s+|bearer\s+)?
        (?P<value> [^\s"',;&]{6,} )"""),
)
_SHORTEST_KNOWN_SECRET = 8


def mask(text: str, known: Iterable[str] = ()) -> str:
    """`text` without the `known` secrets and without anything that has the form of a key, a token or a password."""
    for secret in known:
        if len(secret) >= _SHORTEST_KNOWN_SECRET:
            text = text.replace(secret, MASK)
    for pattern in _SECRETS:
        text = pattern.sub(_mask_value, text)
    return text


def _mask_value(match: re.Match[str]) -> str:
    if "value" not in match.re.groupindex:
        return MASK
    start = match.start("value") - match.start()
    return match.group()[:start] + MASK


def tail(text: str, known: Iterable[str] = ()) -> str:
    """The last 2 KiB of `text`, masked: a secret that the cut would have split is masked before it."""
    return mask(text.strip(), known)[-TAIL_CHARS:]
