"""claude-mem's worker is stopped and started only when the process of the pid file is really it."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.sync.claude_mem import create_memory

from bloom.sync.claude_mem_process import find_worker, installed_script, stopped_for

PATIENCE_SEC = 5
_WORKER = """
import json, os, signal, sys
from datetime import datetime, timezone
data = sys.argv[1]
def note(name, fields):
    with open(data + "/" + name + ".new", "w") as file: json.dump(fields, file)
    os.replace(data + "/" + name + ".new", data + "/" + name)
if "--stubborn" in sys.argv: signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("worker.pid", {"pid": os.getpid(), "port": 37777, "startedAt": datetime.now(timezone.utc).isoformat()})
with open(data + "/started", "w") as file: file.write(str(os.getpid()) + " " + os.environ.get("MARK", "") + "\\n")

signal.pause()
"""


class Home:
    """A claude-mem with a worker that says over a pipe when it runs. Its processes end with the test."""

    def __init__(self, directory: Path) -> None:
        self.data = directory / "claude-mem"
        self.database = self.data / "claude-mem.db"
        create_memory(self.database)
        self.script = install(directory, "12.4.3")
        os.mkfifo(self.data / "started")
        self._pipe = os.open(self.data / "started", os.O_RDWR)
        self.pids: list[int] = []
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, *more: str) -> int:
        argv = [sys.executable, str(self.script), str(self.data), "--daemon", *more]
        self.children.append(subprocess.Popen(argv, env={**os.environ, "MARK": "mark"}))
        return self.heard()[0]

    def heard(self) -> tuple[int, str]:
        """The pid and mark of the worker that starts next."""
        assert select.select([self._pipe], [], [], PATIENCE_SEC)[0], "no worker has started"
        pid, mark = os.read(self._pipe, 100).decode().strip("\n").split(" ")
        self.pids.append(int(pid))
        return int(pid), mark

    def close(self) -> None:
        os.close(self._pipe)
        for child in self.children:
            child.kill()
            child.wait(PATIENCE_SEC)
        for pid in self.pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def install(directory: Path, version: str) -> Path:
    """An installation of the plugin."""
    root = directory / f"plugins/cache/thedotmack/claude-mem/{version}"
    (root / "scripts").mkdir(parents=True)
    (root / "package.json").write_text(json.dumps({"name": "claude-mem-plugin", "version": version}))
    (root / "scripts/worker-service.cjs").write_text(_WORKER)
    return root / "scripts/worker-service.cjs"


@pytest.fixture
def home(tmp_path: Path) -> Generator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def _note(home: Home, **fields: Any) -> None:
    told = {"pid": os.getpid(), "port": 37777, "startedAt": datetime.now(UTC).isoformat(), **fields}
    (home.data / "worker.pid").write_text(json.dumps(told))


def _is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the worker that is started again outlives who started it
def test_the_worker_is_stopped_meanwhile_and_runs_again_as_it_ran_before(home: Home) -> None:
    pid = home.start()
    worker = find_worker(home.database)
    assert worker is not None
    assert (worker.process.pid, worker.version) == (pid, "12.4.3")

    with stopped_for(home.database):
        assert not _is_alive(pid)

    again, mark = home.heard()
    assert again != pid
    assert psutil.Process(again).cmdline()[1:] == [str(home.script), str(home.data), "--daemon"]
    assert mark == "mark"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_after_an_update_of_the_plugin_the_newest_version_is_started(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(home.script.parents[6]))
    home.start()
    with stopped_for(home.database):
        install(home.script.parents[6], "12.9.0")
        newest = install(home.script.parents[6], "12.10.1")
        home.script.unlink()

    again, _ = home.heard()
    assert installed_script() == newest
    assert str(newest) in psutil.Process(again).cmdline()


def test_nothing_is_touched_when_it_is_to_be_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = home.start()
    monkeypatch.setenv("BLOOM_SYNC_LEAVE_CLAUDE_MEM", "1")
    with stopped_for(home.database):
        assert _is_alive(pid)


def test_a_worker_that_does_not_stop_runs_on_and_is_not_killed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloom.sync.claude_mem_process._STOP_SEC", 0.2)
    pid = home.start("--stubborn")
    os.kill(pid, 0)
    with stopped_for(home.database):
        assert _is_alive(pid)


def test_a_pid_that_another_program_has_now_is_left_alone(home: Home) -> None:
    innocent = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()", "worker-service"])
    home.children.append(innocent)
    for fields in (
        {"pid": innocent.pid},
        {"pid": os.getpid()},
        {"pid": 1},
        {"pid": 2**22 + 7},
        {"pid": "1"},
        {"pid": True},
    ):
        _note(home, **fields)
        with stopped_for(home.database):
            assert innocent.poll() is None
        assert find_worker(home.database) is None


def test_another_workers_pid_is_left_alone_when_its_start_does_not_fit(home: Home) -> None:
    pid = home.start()
    begun = datetime.fromtimestamp(psutil.Process(pid).create_time(), UTC)
    stat = Path(f"/proc/{pid}/stat")
    token = stat.read_text().rpartition(") ")[2].split(" ")[19] if stat.exists() else None

    _note(home, pid=pid, startedAt=(begun - timedelta(minutes=1)).isoformat())
    assert find_worker(home.database) is None  # noted before this process began: it had the pid before
    _note(home, pid=pid, startedAt=(begun + timedelta(days=1)).isoformat())
    assert find_worker(home.database) is None
    _note(home, pid=pid, startedAt=begun.isoformat().replace("+00:00", "Z"))
    assert find_worker(home.database) is not None
    if token is not None:
        _note(home, pid=pid, startToken=str(int(token) + 1))
        assert find_worker(home.database) is None
        _note(home, pid=pid, startToken=token, startedAt="2001-01-01T00:00:00Z")  # the clock was wrong at boot
        assert find_worker(home.database) is not None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": 5}', "null"])
def test_a_pid_file_that_says_nothing_means_no_worker(home: Home, content: str) -> None:
    (home.data / "worker.pid").write_text(content)
    assert find_worker(home.database) is None
