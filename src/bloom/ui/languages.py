"""The languages of the pages: English in the templates, others in `locales/<language>/*.po`."""

import re
from dataclasses import dataclass
from functools import cache
from gettext import NullTranslations
from importlib.resources import files
from io import BytesIO

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.support import Translations
from starlette.requests import Request

LANGUAGES = {"en": "English", "uk": "Українська"}
DEFAULT = "en"
LANGUAGE_COOKIE = "bloom_language"

_ACCEPTED = re.compile(r"([a-zA-Z]{1,8})(?:-[a-zA-Z0-9-]*)?\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?))?")


@dataclass(frozen=True, slots=True)
class Language:
    """A language and its words."""

    code: str
    words: NullTranslations

    def say(self, text: str) -> str:
        """`text`, which is English, in this language."""
        return self.words.gettext(text)


@cache
def language(code: str) -> Language:
    """The language of this code; English for one that there is not."""
    if code not in LANGUAGES or code == DEFAULT:
        return Language(DEFAULT, NullTranslations())
    catalog = read_catalog(code)
    compiled = BytesIO()
    write_mo(compiled, catalog)
    compiled.seek(0)
    return Language(code, Translations(compiled))


def read_catalog(code: str) -> Catalog:
    """All words of a language, from the files of its folder. Raises ValueError for a text that two files translate."""
    catalog = Catalog(locale=code)
    for file in sorted(files("bloom.ui").joinpath("locales", code).iterdir(), key=lambda file: file.name):
        if file.name.endswith(".po"):
            for message in read_po(BytesIO(file.read_bytes()), locale=code):
                if message.id and message.id in catalog:
                    raise ValueError(f"{file.name} translates again: {message.id}")
                if message.id:
                    catalog[message.id] = message
    return catalog


def choose_language(request: Request) -> Language:
    """What the reader chose, else what the browser prefers of what there is (RFC 9110, section 12.5.4), else English."""
    if (chosen := request.cookies.get(LANGUAGE_COOKIE)) in LANGUAGES:
        return language(chosen)
    best, best_quality = DEFAULT, 0.0
    for part in request.headers.get("accept-language", "")[:500].split(","):
        if (match := _ACCEPTED.fullmatch(part.strip())) and match[1].lower() in LANGUAGES:
            quality = float(match[2] or 1)
            if quality > best_quality:
                best, best_quality = match[1].lower(), quality
    return language(best)
