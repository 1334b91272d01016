"""What tasks carry in every measurement, ours and PostgreSQL's: a prompt of 1 KB, an output of 2 KB, of random words."""

import random

_WORDS = ("task", "lease", "worker", "queue", "answer", "prompt", "model", "stream", "result", "session", "context")


def text(size: int, seed: int) -> str:
    """`size` characters of random words, always the same for a `seed`."""
    choose = random.Random(seed)  # noqa: S311 - words, not secrets
    words = ""
    while len(words) < size:
        words += f"{choose.choice(_WORDS)}{choose.randrange(1000)} "
    return words[:size]


PROMPT = text(1024, 1)
OUTPUT = text(2048, 2)
