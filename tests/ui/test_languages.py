"""The words of the pages, in each language that there is."""

import re
from collections.abc import Iterable
from enum import StrEnum
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import pytest
from babel.messages.extract import extract
from babel.messages.plurals import get_plural
from starlette.requests import Request
from tests.real_runtime import Replica
from visitor import Visitor, words_of

from bloom.base.roles import Role
from bloom.keys.model import KeyState
from bloom.membridge.model import JobStatus
from bloom.tasks.model import LeaseStatus, TaskStatus
from bloom.ui.languages import LANGUAGES, choose_language, language, read_catalog
from bloom.workers.model import WorkerStatus

MEMBRIDGES = ("push", "pull", "primary", "secondary", "unknown")
"""Words of Membridge that pages show in the reader's language."""


def words_in_code() -> set[str]:
    """Each text that the pages say: the singular, where there is a plural."""
    ui = Path(str(files("bloom.ui")))
    found: set[str] = set()
    for file in [*ui.glob("*.py"), *ui.glob("templates/*.html")]:
        method = "python" if file.suffix == ".py" else "jinja2.ext:babel_extract"
        keywords = {"N_": None, "_": None, "say": None, "gettext": None, "ngettext": (1, 2)}
        options = {"extensions": "jinja2.ext.loopcontrols", "trimmed": "false", "silent": "false"}
        for _, text, _, _ in extract(method, BytesIO(file.read_bytes()), keywords, options=options):
            found.add(text if isinstance(text, str) else text[0])
    return found


def words_of_states() -> set[str]:
    """Texts that pages look up by a value."""
    enums: Iterable[type[StrEnum]] = (TaskStatus, LeaseStatus, WorkerStatus, KeyState, JobStatus, Role)
    return {member.value for enum in enums for member in enum} | {*MEMBRIDGES, "draining"}


_PLACES = re.compile(r"%\(\w+\)s|\{\w+\}")
OTHERS = [code for code in LANGUAGES if code != "en"]


@pytest.mark.parametrize("code", OTHERS)
def test_every_word_is_translated_and_none_is_left_over(code: str) -> None:
    catalog = read_catalog(code)
    known = {message.id if isinstance(message.id, str) else message.id[0] for message in catalog if message.id}
    said = words_in_code() | words_of_states()
    assert sorted(said - known) == [], "words without a translation"
    assert sorted(known - said) == [], "translations of what no page says"


@pytest.mark.parametrize("code", OTHERS)
def test_translations_have_the_placeholders_of_their_texts_and_all_plural_forms(code: str) -> None:
    plurals = get_plural(code)
    for message in read_catalog(code):
        if not message.id:
            continue
        texts = message.string if isinstance(message.string, tuple | list) else (message.string,)
        assert len(texts) == (plurals.num_plurals if message.pluralizable else 1) and all(texts), message.id
        assert not list(message.check()), message.id
        assert not message.fuzzy, message.id
        source = message.id if isinstance(message.id, str) else message.id[1]
        for text in map(str, texts):
            assert set(_PLACES.findall(text)) == set(_PLACES.findall(source)), message.id


@pytest.mark.parametrize(
    ("accepted", "cookie", "code"),
    [
        ("uk", None, "uk"),
        ("uk-UA,uk;q=0.9,en;q=0.8", None, "uk"),
        ("en;q=0.5, UK;q=0.7", None, "uk"),
        ("uk;q=0", None, "en"),
        ("de, fr;q=0.9", None, "en"),
        ("", None, "en"),
        ("*", None, "en"),
        ("x" * 100_000, None, "en"),
        ("uk;q=2", None, "en"),
        ("en", "uk", "uk"),
        ("uk", "en", "en"),
        ("uk", "de", "uk"),
    ],
)
def test_the_browser_or_the_reader_chooses_the_language(accepted: str, cookie: str | None, code: str) -> None:
    headers = [(b"accept-language", accepted.encode())]
    if cookie:
        headers.append((b"cookie", f"bloom_language={cookie}".encode()))
    assert choose_language(Request({"type": "http", "headers": headers})).code == code


def test_a_reader_switches_the_language_and_stays_on_the_page(quiet_runtime: Replica) -> None:
    with Visitor(quiet_runtime.url) as visitor:
        page = visitor.get("/leases", status="all")
        assert '<html lang="en">' in page.text and page.headers["vary"] == "Cookie, Accept-Language"
        answer = visitor.post("/language", on="/leases", language="uk", next="/leases?status=all")
        assert answer.headers["location"] == "/leases?status=all"
        assert "Max-Age=31536000" in answer.headers["set-cookie"]
        page = visitor.page("/leases", status="all")
        assert '<html lang="uk">' in page and "Оренди" in words_of(page)
        visitor.post("/language", on="/leases", language="de")
        assert '<html lang="uk">' in visitor.page("/leases")
        visitor.post("/language", on="/leases", language="en")
        assert '<html lang="en">' in visitor.page("/leases")


def test_an_error_page_speaks_the_language_too(quiet_runtime: Replica) -> None:
    with Visitor(quiet_runtime.url, **{"Accept-Language": "uk"}) as visitor:
        words = words_of(visitor.get("/nowhere").text)
    assert language("uk").say("There is nothing here. It may have been deleted, or the address is wrong.") in words
