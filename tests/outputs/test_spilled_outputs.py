"""What a program writes beyond 8 MiB goes to the disk, as text that can be stored; JSON stays JSON."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bloom.worker.config import WorkerConfig
from bloom.worker.executors.choice import build_executor
from bloom.worker.executors.interface import Report, RunEvent, RunTask, StopSignal
from bloom.worker.executors.json_file import is_json_file

pytestmark = pytest.mark.anyio

KIB = 1024
LIMIT = 64 * KIB


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloom.worker.executors.growing_output.IN_MEMORY_BYTES", LIMIT)


async def run(tmp_path: Path, program: str, **fields: Any) -> tuple[Report, list[RunEvent]]:
    """The report and the events of a program (Python) whose output may go to `tmp_path`."""
    argv = [sys.executable, "-I", "-S", "-c", f"import sys; write = sys.stdout.buffer.write\n{program}"]
    config = WorkerConfig.model_validate({"command": {"argv": argv}})
    executor = build_executor(
        config, tmp_path / "workspace", "command", {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    )
    events: list[RunEvent] = []

    async def emit(event: RunEvent) -> None:
        events.append(event)

    given_path = fields.pop("output_path", tmp_path / "output")
    task = RunTask("t", "l", "c", "a", "prompt", output_path=given_path, **fields)
    return await executor.run(task, emit, StopSignal()), events


def told_text(events: list[RunEvent]) -> str:
    return "".join(event.data["text"] for event in events if event.type == "text")


async def test_a_short_output_stays_in_memory(tmp_path: Path) -> None:
    report, events = await run(tmp_path, f"write(b'x' * {LIMIT})")
    assert (report.output, report.output_path) == ("x" * LIMIT, None)
    assert told_text(events) == report.output
    assert not (tmp_path / "output").exists()


async def test_a_long_output_is_in_the_file_and_only_its_beginning_is_told(tmp_path: Path) -> None:
    report, events = await run(tmp_path, "for n in range(100_000): write(b'%06d\\n' % n)")
    whole = "".join(f"{n:06}\n" for n in range(100_000))
    assert (report.status, report.output, report.output_path) == ("success", None, tmp_path / "output")
    assert (tmp_path / "output").read_text() == whole
    assert whole.startswith(told_text(events)) and len(told_text(events)) <= LIMIT
    assert [event.data for event in events if event.type == "status"] == [{"state": "output_continues_unseen"}]


async def test_what_cannot_be_stored_is_replaced_and_counted(tmp_path: Path) -> None:
    report, _ = await run(tmp_path, "write('é漢🌱'.encode() * 20_000 + b'\\0\\xff' * 1000)")
    text = (tmp_path / "output").read_text()
    assert text == "é漢🌱" * 20_000 + "\N{REPLACEMENT CHARACTER}" * 2000
    assert report.metrics["replaced_characters"] == 1000  # the bytes that are no UTF-8 are a matter of decoding


async def test_a_long_json_output_is_checked(tmp_path: Path) -> None:
    numbers = "write(b'[' + b','.join(b'%d' % n for n in range(100_000)) + b'END')"
    good, _ = await run(tmp_path, numbers.replace("END", "]"), desired_format="json")
    assert (good.status, good.output_path) == ("success", tmp_path / "output")
    (tmp_path / "output").unlink()
    bad, _ = await run(tmp_path, numbers.replace("END", ",]"), desired_format="json")
    assert (bad.code, bad.retryable, bad.output_path) == ("invalid_json", True, None)


async def test_a_disk_that_does_not_take_the_output_is_told(tmp_path: Path) -> None:
    report, _ = await run(tmp_path, f"write(b'x' * {2 * LIMIT})", output_path=tmp_path / "missing" / "output")
    assert (report.code, report.retryable) == ("output_not_kept", True)


async def test_an_output_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloom.worker.executors.growing_output.MAX_BYTES", 4 * LIMIT)
    report, _ = await run(tmp_path, "while True: write(b'y' * 4096)")
    assert (report.code, report.retryable) == ("output_too_large", False)


# --- JSON in a file ---------------------------------------------------------------------------------------------------

_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def refuse(constant: str) -> None:
    raise ValueError(constant)


def is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode(), parse_constant=refuse)
    except ValueError:
        return False
    return True


@settings(max_examples=400, deadline=None)
@given(
    value=_VALUES,
    ascii=st.booleans(),
    indent=st.none() | st.just(1),
    harm=st.none() | st.tuples(st.integers(0, 200), st.sampled_from(list(b'{}[],:"\\0-+.eEtnu \n\x01a'))),
    block=st.integers(1, 9),
)
@example(value=[1, "x"], ascii=True, indent=None, harm=None, block=1)
def test_a_file_is_judged_like_its_text_wherever_its_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, value: Any, ascii: bool, indent: int | None, harm: Any, block: int
) -> None:
    text = bytearray(json.dumps(value, ensure_ascii=ascii, indent=indent).encode(errors="replace"))
    if harm is not None:
        text[harm[0] % (len(text) + 1) : harm[0] % (len(text) + 1) + harm[0] % 2] = bytes([harm[1]])
    try:
        text.decode()
    except UnicodeDecodeError:
        return
    path = tmp_path_factory.getbasetemp() / "value.json"
    path.write_bytes(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bloom.worker.executors.json_file._BLOCK_BYTES", block)
        assert is_json_file(path) is is_json(bytes(text)), bytes(text)


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        (b"", False),
        (b" \n", False),
        (b" 1 ", True),
        (b"1 2", False),
        (b"-", False),
        (b"01", False),
        (b"1.", False),
        (b"NaN", False),
        (b"[" * 1000 + b"]" * 1000, True),
        (b"[" * 1001 + b"]" * 1001, False),
        (b'"' + b"x" * 1_000_000 + b'"', True),
        (b"1" * 1_000_000, False),
        (b"[1" + b" " * 1_000_000 + b"]", True),
        (b'{"a":1,}', False),
        (b'{"a" 1}', False),
        (b"{1:1}", False),
        (b'"\\ud83c\\udf31"', True),
        (b'"\\x"', False),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else str(value),
)
def test_json_is_told_from_what_only_looks_like_it(tmp_path: Path, text: bytes, judged: bool) -> None:
    (tmp_path / "file").write_bytes(text)
    assert is_json_file(tmp_path / "file") is judged
