"""The log file: set aside by size and by day, with several processes that write to it."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from bloom.base.errors import ConfigurationError
from bloom.base.log_file import LogFile
from bloom.base.logging import configure_logging
from bloom.base.settings import ProcessSettings, load

DAY_SEC = 86_400


@pytest.fixture(autouse=True)
def _own_handlers() -> Generator[None]:  # pyright: ignore[reportUnusedFunction]
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def log_file(path: Path, *, max_bytes: int = 0, keep_days: int = 0, keep_files: int = 0) -> LogFile:
    return LogFile(path, max_bytes=max_bytes, keep_days=keep_days, keep_files=keep_files)


def write(handler: LogFile, *lines: str) -> None:
    for line in lines:
        handler.emit(logging.makeLogRecord({"msg": line}))


def age(path: Path, *, days: int) -> None:
    then = time.time() - days * DAY_SEC
    os.utime(path, (then, then))


def aside(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*"))


def test_a_full_file_is_set_aside_and_as_many_are_kept_as_wanted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = log_file(path, max_bytes=10, keep_files=2)
    write(handler, *(f"line number {n}" for n in range(5)))
    handler.close()
    assert path.read_text() == "line number 4\n"
    assert sorted(one.read_text() for one in aside(path)) == ["line number 2\n", "line number 3\n"]


def test_a_file_of_another_day_is_set_aside_and_those_too_old_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    old, unrelated = tmp_path / "log.20200101-000000", tmp_path / "log.1"
    for made in (old, unrelated):
        made.write_text("old\n")
        age(made, days=30)
    handler = log_file(path, keep_days=14)
    write(handler, "yesterday")
    age(path, days=1)
    write(handler, "today", "today too")
    handler.close()
    assert path.read_text() == "today\ntoday too\n"
    (kept,) = (one for one in aside(path) if one != unrelated)
    assert kept.read_text() == "yesterday\n"
    assert unrelated.exists()


def test_with_zeros_nothing_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = log_file(path)
    write(handler, "yesterday")
    age(path, days=1)
    write(handler, "x" * 100_000)
    handler.close()
    assert not aside(path)


def test_a_file_that_another_program_has_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = log_file(path)
    write(handler, "before")
    path.rename(tmp_path / "moved")
    write(handler, "after")
    handler.close()
    assert path.read_text() == "after\n"


def test_processes_that_write_to_one_file_lose_no_line_and_tear_none(tmp_path: Path) -> None:
    path = tmp_path / "log"
    code = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from bloom.base.log_file import LogFile\n"
        "handler = LogFile(Path(sys.argv[1]), max_bytes=200_000, keep_days=1, keep_files=0)\n"
        "print('ready', flush=True); sys.stdin.read()\n"
        "for n in range(100): handler.emit(logging.makeLogRecord({'msg': f'{sys.argv[2]} {n} ' + 'x' * 20_000}))\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(path), str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()  # begin
    for writer in writers:
        assert writer.wait(60) == 0 and writer.stdout is not None
        writer.stdout.close()
    files = [path, *aside(path)]
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert sorted(lines) == sorted(f"{w} {n} {'x' * 20_000}" for w in range(3) for n in range(100))
    assert len(files) > 5


def test_a_directory_that_may_not_be_written_costs_the_rotation_and_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    handler = log_file(path, max_bytes=5)
    write(handler, "first line")

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "rename", refuse)
    another = log_file(path, max_bytes=5)  # as another process has it: it must not wait for the first one
    write(handler, "second", "third")
    write(another, "fourth")
    for one in (handler, another):
        one.close()
    assert path.read_text() == "first line\nsecond\nthird\nfourth\n"


def test_with_a_file_stderr_gets_the_errors_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    configure_logging(load(ProcessSettings, BLOOM_LOG_FILE=str(path), BLOOM_LOG_FORMAT="json"))
    logging.getLogger("bloom").info("all is well")
    logging.getLogger("bloom").error("it is not")
    said = capsys.readouterr().err
    assert "it is not" in said and "all is well" not in said
    assert [line.count('"message"') for line in path.read_text().splitlines()] == [1, 1]
    assert path.stat().st_mode & 0o007 == 0


def test_a_file_that_cannot_be_written_is_an_error_that_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"BLOOM_LOG_FILE .*No such file or directory"):
        configure_logging(load(ProcessSettings, BLOOM_LOG_FILE=str(tmp_path / "missing" / "log")))
