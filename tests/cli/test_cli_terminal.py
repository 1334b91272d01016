"""Text that a terminal may be sent, tables, short times."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloom.cli.tables import Cell, cut_to_width, print_fields, print_table, text_width
from bloom.cli.terminal import ago, clean, clean_line, paint, print_json, short_duration


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\x1b[31;1mred\x1b[0m", "ared"),
        ("\x1b]0;title\x07x\x1b]8;;http://e\x1b\\link\x1b]8;;\x1b\\", "xlink"),
        ("\x1b]52;c;aGk=\x1b\\x", "x"),
        ("\x1bPq#0\x1b\\x\x1b^pm\x07y", "xy"),
        ("\x9b2Jx\x90\x9dy\x85", "xy"),
        ("\x1bcx\x1b(0y\x1b7z", "xyz"),
        ("a\x1b", "a"),
        ("\x1b]never ended\nnext", "never ended\nnext"),
        ("tab\tnewline\r\nbell\x07nul\x00del\x7f", "tab\tnewline\nbellnuldel"),
        ("Ж 🐎 é", "Ж 🐎 é"),
    ],
)
def test_escape_sequences_and_control_characters_are_taken_out(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@given(st.text(alphabet=st.one_of(st.sampled_from("\x1b[]0;m\x07\x9b\\Pq\n\t"), st.characters())))
def test_nothing_that_a_terminal_obeys_ever_comes_through(text: str) -> None:
    assert not [c for c in clean(text) if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f"]


def test_one_line_stays_one_line_and_keeps_its_order() -> None:
    assert clean_line("a\r\nb\n\n c\u202eevil\u2066") == "a b cevil"
    assert clean_line("abcdef", 4) == "abc…"


def test_json_is_one_document_without_c1_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": "Ж\x9b31m\x1b[0m"})
    text = capsys.readouterr().out
    assert "\x9b" not in text and "\x1b" not in text and "Ж" in text
    assert json.loads(text) == {"a": "Ж\x9b31m\x1b[0m"}


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    assert paint("x", "", Terminal()) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red", Terminal()) == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"


def test_widths_count_columns_and_not_characters() -> None:
    assert text_width("abc") == 3
    assert text_width("長い") == 4
    assert text_width("e\u0301") == 1
    assert cut_to_width("長い話", 5) == "長い…"
    assert cut_to_width("short", 5) == "short"


def test_a_table_fits_eighty_columns_and_keeps_all_but_its_last_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    name = "0198a2b3-0000-7000-8000-000000000001"
    print_table(["ID", "STATUS", "PROMPT"], [[name, Cell("running", "yellow"), "word " * 40], ["長", "", "x"]])
    lines = capsys.readouterr().out.splitlines()
    assert all(text_width(line) <= 80 for line in lines)
    assert lines[1].startswith(f"{name}  running  word word") and lines[1].endswith("…")
    assert lines[2] == "長" + " " * 36 + "-        x"


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("task", "t1"), ("why", ""), ("status", Cell("dead", "red"))])
    assert capsys.readouterr().out == "task    t1\nstatus  dead\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86_399.9, "1 d"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert short_duration(seconds) == text


@pytest.mark.parametrize(
    ("before_sec", "text"),
    [(-50, "just now"), (0, "just now"), (5, "5 s ago"), (130, "2 min ago"), (7300, "2 h ago"), (200_000, "2 d ago")],
)
def test_moments_are_told_as_how_long_ago(before_sec: int, text: str) -> None:
    assert ago((1_000_000 - before_sec) * 1000, now_sec=1_000_000) == text
    assert ago(None) == "-"
