"""The parser of Server-Sent Events against the rules of the HTML standard."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloom.client import sse
from bloom.client.sse import EventParser, EventTooLong, RawEvent


def parse(*chunks: bytes) -> list[RawEvent]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_an_event_ends_at_the_empty_line() -> None:
    assert parse(b"id: 7\nevent: run\ndata: {}\n\n") == [RawEvent("7", "run", "{}")]
    assert parse(b"id: 7\nevent: run\ndata: {}\n") == []


def test_lines_of_data_are_joined_by_newlines_and_one_space_is_dropped() -> None:
    assert parse(b"data:a\ndata:  b\ndata\n\n") == [RawEvent(None, "message", "a\n b\n")]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_each_line_end_of_the_standard_is_understood(end: bytes) -> None:
    stream = end.join([b"event: a", b"data: 1", b"", b"data: 2", b"", b""])
    assert parse(stream) == [RawEvent(None, "a", "1"), RawEvent(None, "message", "2")]


def test_a_crlf_cut_in_two_is_one_line_end() -> None:
    assert parse(b"data: 1\r", b"\ndata: 2\r", b"\n", b"\r", b"\n") == [RawEvent(None, "message", "1\n2")]


def test_comments_unknown_fields_and_a_byte_order_mark_are_passed_over() -> None:
    assert parse(b"\xef\xbb", b"\xbf: hello\nretry: 9\nfoo: 1\ndata: x\n\n: ping\n\n") == [
        RawEvent(None, "message", "x")
    ]


def test_a_letter_cut_in_two_stays_whole() -> None:
    whole = "data: Ж🐎\n\n".encode()
    for cut in range(len(whole)):
        assert parse(whole[:cut], whole[cut:]) == [RawEvent(None, "message", "Ж🐎")]


def test_the_id_stays_until_another_comes_and_one_with_nul_is_ignored() -> None:
    assert [e.id for e in parse(b"id: 1\ndata: a\n\ndata: b\n\nid: 2\0\ndata: c\n\nid\ndata: d\n\n")] == [
        "1",
        "1",
        "1",
        "",
    ]


def test_an_event_without_data_is_not_one_but_its_id_counts() -> None:
    assert parse(b"id: 5\nevent: run\n\ndata: x\n\n") == [RawEvent("5", "message", "x")]


def test_a_stream_without_an_end_of_event_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_CHARS", 100)
    with pytest.raises(EventTooLong):
        parse(*[b"data: xxxxxxxxxx\n"] * 20)
    with pytest.raises(EventTooLong):
        parse(b"x" * 101)


def test_keep_alives_never_add_up_to_a_long_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_CHARS", 100)
    assert parse(*[b": keep-alive\n\n"] * 50, b"data: x\n\n") == [RawEvent(None, "message", "x")]


@given(
    st.lists(st.text(alphabet='abЖ \t:{}"', max_size=8), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r", "\r\n"]),
    st.data(),
)
def test_events_do_not_depend_on_how_the_bytes_are_cut(texts: list[str], end: str, data: st.DataObject) -> None:
    stream = "".join(f"data: {text}{end}{end}" for text in texts).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    bounds = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(bounds)]
    assert [event.data for event in parse(*chunks)] == texts
