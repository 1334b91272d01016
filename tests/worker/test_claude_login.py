"""Runs that share a login of the Claude CLI never refresh its token at the same time.

The real CLI cannot be pointed at another token endpoint (2.1.197 takes only approved addresses), so a program of the
test's plays it: it refreshes as the CLI does, and notices when another one does so too.
"""

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bloom.worker.config import WorkerConfig
from bloom.worker.executors import claude_login
from bloom.worker.executors.claude import ClaudeExecutor
from bloom.worker.executors.claude_login import LOCK_FILE, SharedLogin, refreshing_alone
from bloom.worker.executors.interface import Report, RunEvent, RunTask, StopReason, StopSignal
from bloom.worker.workspace import Workspace

pytestmark = pytest.mark.anyio

PATIENCE_SEC = 20
HOUR = 3600


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_login, "_LOOK_SEC", 0.01)


def log_in(directory: Path, *, ends_in_sec: float | None, refresh: str = "refresh") -> SharedLogin:
    """Put a login into a configuration directory."""
    directory.mkdir(exist_ok=True)
    ends_at = None if ends_in_sec is None else round((time.time() + ends_in_sec) * 1000)
    token = {"accessToken": "access", "refreshToken": refresh, "expiresAt": ends_at}
    new = directory / "new"
    new.write_text(json.dumps({"claudeAiOauth": token}))
    new.replace(directory / ".credentials.json")
    return SharedLogin(directory)


@pytest.fixture
def login(tmp_path: Path) -> SharedLogin:
    """A login whose token ends in an hour."""
    return log_in(tmp_path / "config", ends_in_sec=HOUR)


class Runs:
    """Runs that pass by the lock, in tasks of this test."""

    def __init__(self, login: SharedLogin) -> None:
        self._login = login
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, longest_sec: float = HOUR) -> "OneRun":
        run = OneRun()
        self._tasks.append(asyncio.create_task(self._run(run, longest_sec)))
        return run

    async def _run(self, run: "OneRun", longest_sec: float) -> None:
        async def on_wait() -> None:
            run.waits.set()

        async with refreshing_alone(self._login, longest_sec, run.stop, on_wait):
            run.runs.set()
            await run.end.wait()
        run.over.set()

    async def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class OneRun:
    def __init__(self) -> None:
        self.stop = StopSignal()
        self.waits, self.runs, self.end, self.over = (asyncio.Event() for _ in range(4))


@asynccontextmanager
async def runs_of(login: SharedLogin) -> AsyncGenerator[Runs]:
    runs = Runs(login)
    try:
        async with asyncio.timeout(PATIENCE_SEC):
            yield runs
    finally:
        await runs.cancel()


async def test_a_run_that_may_refresh_waits_for_another_one_that_may(login: SharedLogin) -> None:
    async with runs_of(login) as runs:
        first = runs.begin()
        await first.runs.wait()
        second = runs.begin()
        await second.waits.wait()
        assert not second.runs.is_set()
        first.end.set()
        await second.runs.wait()
        assert first.over.is_set()


async def test_once_the_token_is_renewed_all_go_on_side_by_side(login: SharedLogin) -> None:
    async with runs_of(login) as runs:
        first = runs.begin()
        await first.runs.wait()
        others = [runs.begin(), runs.begin()]
        for other in others:
            await other.waits.wait()
        log_in(login.directory, ends_in_sec=8 * HOUR)
        for other in others:
            await other.runs.wait()
        assert not first.over.is_set()
        late = runs.begin()
        await late.runs.wait()
        assert not late.waits.is_set()


async def test_a_run_that_is_over_before_any_refresh_waits_for_nobody(login: SharedLogin) -> None:
    async with runs_of(login) as runs:
        long = runs.begin()
        await long.runs.wait()
        short = [runs.begin(longest_sec=120) for _ in range(3)]
        for run in short:
            await run.runs.wait()
            assert not run.waits.is_set()


async def test_a_run_that_is_told_to_stop_waits_no_longer(login: SharedLogin) -> None:
    async with runs_of(login) as runs:
        first = runs.begin()
        await first.runs.wait()
        second = runs.begin()
        await second.waits.wait()
        second.stop.set(StopReason.CANCELLED)
        await second.runs.wait()
        assert not first.over.is_set()


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(login: SharedLogin) -> Generator[subprocess.Popen[bytes]]:
    """Another process, which has locked the login."""
    argv = [sys.executable, "-I", "-S", "-c", HOLDER, str(login.directory / LOCK_FILE)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


async def test_another_process_of_this_user_counts_too_and_its_death_frees_the_login(
    login: SharedLogin, holder: subprocess.Popen[bytes]
) -> None:
    async with runs_of(login) as runs:
        run = runs.begin()
        await run.waits.wait()
        holder.kill()
        await run.runs.wait()


async def test_where_nothing_can_be_locked_runs_go_on(login: SharedLogin, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(fcntl, "flock", refuse)
    async with runs_of(login) as runs:
        for run in [runs.begin(), runs.begin()]:
            await run.runs.wait()


@pytest.mark.parametrize(
    "variable", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_USE_BEDROCK"]
)
def test_keys_and_tokens_that_are_never_refreshed_need_no_lock(login: SharedLogin, variable: str) -> None:
    environment = {"CLAUDE_CONFIG_DIR": str(login.directory)}
    assert SharedLogin.of(environment) == login
    assert SharedLogin.of({**environment, variable: ""}) == login
    assert SharedLogin.of({**environment, variable: "1"}) is None


def test_a_login_is_found_in_the_home_directory(tmp_path: Path) -> None:
    assert SharedLogin.of({"HOME": str(tmp_path)}) is None
    assert SharedLogin.of({}) is None
    login = log_in(tmp_path / ".claude", ends_in_sec=HOUR)
    assert SharedLogin.of({"HOME": str(tmp_path)}) == login


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"claudeAiOauth": null}', '{"claudeAiOauth": {"refreshToken": "", "expiresAt": 0}}']
)
def test_a_file_without_a_login_asks_for_no_lock(tmp_path: Path, content: str) -> None:
    (tmp_path / ".credentials.json").write_text(content)
    assert SharedLogin.of({"CLAUDE_CONFIG_DIR": str(tmp_path)}) is None


def test_a_token_without_an_end_is_never_refreshed(tmp_path: Path) -> None:
    assert log_in(tmp_path, ends_in_sec=None).token_ends_at() is None


# --- whole runs, of a program that plays the CLI ----------------------------------------------------------------------

CLI = """
import json, os, sys, time
from pathlib import Path
home, test = Path(os.environ["CLAUDE_CONFIG_DIR"]), Path(os.environ["TEST_DIR"])
def note(word):
    with open(test / "notes", "a") as file:
        file.write(word + "\\n")
sys.stdin.read()
token = json.loads((home / ".credentials.json").read_text())["claudeAiOauth"]
if time.time() * 1000 + 300_000 >= token["expiresAt"]:
    try:
        os.close(os.open(test / "refreshing", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        note("overlap")
        sys.exit(1)
    note("refresh")
    open(test / "gate").read()   # until the test opens it
    token["expiresAt"] = round((time.time() + 8 * 3600) * 1000)
    (home / "new").write_text(json.dumps({"claudeAiOauth": token}))
    (home / "new").replace(home / ".credentials.json")
    os.unlink(test / "refreshing")
note("run")
print(json.dumps({"type": "result", "subtype": "success", "is_error": False, "result": "done"}))
"""


async def test_of_four_slots_one_refreshes_and_the_others_wait_for_it(tmp_path: Path) -> None:
    program = tmp_path / "claude"
    program.write_text(f"#!{sys.executable} -IS\n{CLI}")
    program.chmod(0o700)
    os.mkfifo(tmp_path / "gate")
    config = tmp_path / "config"
    log_in(config, ends_in_sec=60)
    environment = {"PATH": str(tmp_path), "CLAUDE_CONFIG_DIR": str(config), "TEST_DIR": str(tmp_path)}
    settings = WorkerConfig.model_validate({"pass_env": ["TEST_DIR"]})
    executor = ClaudeExecutor(settings, Workspace(tmp_path / "workspaces"), environment)
    states: list[Any] = []
    changed = asyncio.Condition()

    async def emit(event: RunEvent) -> None:
        async with changed:
            states.append(event.data.get("state"))
            changed.notify_all()

    async def run(number: int) -> Report:
        return await executor.run(RunTask(f"t{number}", f"l{number}", f"c{number}", "a", "p"), emit, StopSignal())

    runs = [asyncio.create_task(run(number)) for number in range(4)]
    async with asyncio.timeout(PATIENCE_SEC):
        async with changed:
            await changed.wait_for(lambda: states.count("waiting_for_login") == 3)
        gate = await asyncio.to_thread(os.open, tmp_path / "gate", os.O_WRONLY)  # the first has come to refresh
        assert (tmp_path / "notes").read_text() == "refresh\n"
        os.close(gate)
        reports = await asyncio.gather(*runs)
    assert [(report.status, report.output) for report in reports] == [("success", "done")] * 4
    assert (tmp_path / "notes").read_text().split() == ["refresh", "run", "run", "run", "run"]
