"""The prompt as the Claude CLI gets it: the task's prompt and its hints, with only the file mentions that are meant.

The CLI reads every `@path` that begins a word as a file to attach, without asking for permission, whether the path is
inside the working directory or not (tried with 2.1.197: `@/etc/passwd`, `@../x`, a link that leads out, a quoted path;
a directory is listed). Who may submit a task could thus read any file of the worker's user. So:

- a hint that names a regular file inside the working directory becomes a mention; any other hint is text in which no
  mention is left;
- in the prompt, a mention of what is inside, or of nothing that exists, stays; one that leads out is neutralised.

Neutralised means a space behind the `@`, which no later normalisation of text takes away.
"""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from bloom.worker.workspace import file_inside, is_inside

# White space as JavaScript's \s has it, on which the CLI divides words.
_SPACE = "\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
# The CLI takes an @ at the start, after white space and after some CJK punctuation; here any but that of name@host.
_AT = re.compile("(?<![A-Za-z0-9_])@(?! )")
_QUOTED = re.compile('"([^"]+)"')
_LONGEST_MENTION = 1024
_WORD = re.compile(f"[^{_SPACE}]{{1,{_LONGEST_MENTION + 1}}}")
_MOST_MENTIONS = 10_000
_LAST_WORD_END = re.compile(r".*\w", re.ASCII | re.DOTALL)
# What may stand in a mention without meaning anything else there (quotes, #L1 line ranges, control characters).
_MENTIONABLE = re.compile(r'[^"#\\\x00-\x1f\x7f]+')


def compose_prompt(prompt: str, hints: Sequence[str], directory: Path, home: str | None) -> tuple[str, int]:
    """The text for the CLI's stdin, run in `directory`, and how many mentions of the prompt were neutralised.

    `home` is the child's HOME, which the CLI takes for `~`.
    """
    text, neutralised = _neutralise_outside(prompt, directory, home)
    files: list[str] = []
    notes: list[str] = []
    for hint in hints:
        path = file_inside(hint, directory)
        if path is not None and _MENTIONABLE.fullmatch(path) and not path.endswith(" (agent)"):
            files.append(path)
        elif hint.strip():
            notes.append(_AT.sub("@ ", hint))
    parts = [text]
    if files:
        parts.append("Files given with this task:\n" + "\n".join(f'@"{path}"' for path in files))
    if notes:
        parts.append("Hints given with this task:\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts), neutralised


def _neutralise_outside(prompt: str, directory: Path, home: str | None) -> tuple[str, int]:
    """Judge each @ by itself, as a quoted mention and as a word: the CLI looks for both independently.

    What is too long, or one too many, is neutralised unseen.
    """
    judged: dict[str, bool] = {}
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        quoted, word = _QUOTED.match(prompt, match.end()), _WORD.match(prompt, match.end())
        for mentioned in (quoted and quoted[1], word and word[0]):
            if not mentioned:
                continue
            if mentioned not in judged:
                too_much = len(mentioned) > _LONGEST_MENTION or len(judged) >= _MOST_MENTIONS
                judged[mentioned] = too_much or _leads_out(mentioned, directory, home)
            if judged[mentioned]:
                count += 1
                return "@ "
        return "@"

    return _AT.sub(replace, prompt), count


def _leads_out(mentioned: str, directory: Path, home: str | None) -> bool:
    """Whether the CLI could read something for it that exists outside of `directory`. Rather yes than no."""
    word_end = _LAST_WORD_END.match(mentioned)
    readings = {mentioned, mentioned.lstrip('"'), word_end.group() if word_end else ""}
    readings |= {reading.partition("#")[0] for reading in readings}
    readings |= {unicodedata.normalize("NFC", reading) for reading in readings}
    try:
        paths = {os.path.expanduser(reading) for reading in readings if reading}  # noqa: PTH111 - ~unknown is a name
        if home:
            paths |= {home + reading[1:] for reading in readings if reading == "~" or reading.startswith("~/")}
        return any(os.path.lexists(directory / path) and not is_inside(path, directory) for path in paths)
    except (OSError, ValueError):  # a NUL, a lone surrogate, a loop of links
        return True
