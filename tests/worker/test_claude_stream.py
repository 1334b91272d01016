"""From bytes to objects: lines of any length, cut anywhere, split by another object, or no JSON at all."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import DIRECTORY, sample

from bloom.worker.executors.claude_stream import StreamDecoder

INTRUDER: dict[str, Any] = {
    "type": "rate_limit_event",
    "rate_limit_info": {"status": "allowed", "resetsAt": 1795200158},
    "uuid": "u",
}
LINE: dict[str, Any] = {
    "type": "assistant",
    "message": {"content": [{"type": "text", "text": 'a "quoted" {text} with {"type":"rate_limit_event"} in it'}]},
}


def dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def decode(stream: bytes, size: int | None = None) -> tuple[list[dict[str, Any]], int]:
    decoder = StreamDecoder()
    step = size or max(1, len(stream))
    objects = [line for start in range(0, len(stream), step) for line in decoder.feed(stream[start : start + step])]
    return [*objects, *decoder.finish()], decoder.garbage_lines


@pytest.mark.parametrize("name", sorted(path.stem for path in DIRECTORY.iterdir()))
@pytest.mark.parametrize("size", [1, 1000, 65536])
def test_every_sample_is_read_whole_however_it_is_cut(name: str, size: int) -> None:
    expected = [json.loads(line) for line in sample(name).splitlines()]
    assert decode(sample(name), size) == (expected, 0)


@pytest.mark.parametrize("size", [100_000, 65536])
def test_a_line_of_thirty_megabytes_is_read(size: int) -> None:
    line = {"type": "result", "result": "x" * 30_000_000}
    assert decode(dump(line) + b"\n", size) == ([line], 0)


@given(st.integers(1, len(dump(LINE)) - 1), st.sampled_from([b"", b"\n"]), st.sampled_from([b"", b"\n"]))
def test_an_event_in_the_middle_of_a_line_costs_neither(at: int, before: bytes, after: bytes) -> None:
    line = dump(LINE)
    stream = line[:at] + before + dump(INTRUDER) + after + line[at:] + b"\n" + dump({"type": "system"}) + b"\n"
    objects, garbage = decode(stream)
    assert garbage == 0
    assert sorted(objects, key=str) == sorted([INTRUDER, LINE, {"type": "system"}], key=str)


def test_two_events_in_one_line_are_recovered() -> None:
    line = dump(LINE)
    stream = line[:10] + dump(INTRUDER) + line[10:40] + dump(INTRUDER) + line[40:] + b"\n"
    assert decode(stream) == ([INTRUDER, INTRUDER, LINE], 0)


@pytest.mark.parametrize("garbage", [b"Warning: something", b"[1, 2]", b"null", b'{"cut', b"\xff\xfe", b"{" * 100_000])
def test_a_line_that_is_no_object_is_counted_and_left_out(garbage: bytes) -> None:
    objects, count = decode(garbage + b"\n" + dump(LINE) + b"\n\n \n" + dump(INTRUDER))
    assert objects == [LINE, INTRUDER]
    assert count == 1


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    assert decode(b'{"type":"x","text":"\xff"}\n')[0] == [{"type": "x", "text": "\N{REPLACEMENT CHARACTER}"}]


def test_a_line_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloom.worker.executors.claude_stream.MAX_LINE_BYTES", 1000)
    objects, garbage = decode(b"x" * 5000 + b"\n" + dump(LINE) + b"\n", 100)
    assert objects == [LINE]
    assert garbage >= 1
