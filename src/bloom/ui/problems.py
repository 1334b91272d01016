"""What a form says at a field that does not fit, in the reader's language (`bloom.web.validation` has it in English)."""

import re
from collections.abc import Mapping, Sequence

from bloom.ui.languages import Language
from bloom.ui.notices import N_

_NUMBER = re.compile(r"-?\d[\d.]*")

TEXTS = (
    N_("Required"),
    N_("Must be a whole number"),
    N_("Must be a number"),
    N_("Must be at least {}"),
    N_("Must be at most {}"),
    N_("Must have at least {} character"),
    N_("Must have at most {} characters"),
    N_("Must have at most {} items"),
    N_("Must not contain NUL characters or lone surrogates"),
    N_("Must be a date and a time"),
    N_("Must be a text file in UTF-8"),
    N_("Type the prompt or choose a file, not both"),
    N_("This key was used for another task; take a new one"),
)
"""What is translated; the rest is told in English."""


def say_problems(language: Language, problems: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The messages of each field, translated."""
    return {field: [_say(language, text) for text in texts] for field, texts in problems.items()}


def _say(language: Language, text: str) -> str:
    numbers = _NUMBER.findall(text)
    return language.say(_NUMBER.sub("{}", text)).format(*numbers) if _NUMBER.sub("{}", text) in TEXTS else text
