"""A scripted runtime and a way to run `bloom` against it in this process."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from fake_runtime import Bloom, FakeRuntime
from new_machine import always, manage_services_by, person
from typer.testing import CliRunner, Result
from up_process import Starter, starter

from bloom.cli import joining
from bloom.cli.main import app


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    """A runtime whose answers the test scripts."""
    fake = FakeRuntime()
    yield fake
    fake.close()


@pytest.fixture
def bloom(runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bloom:
    """Runs `bloom ARGS` against `runtime`, with an environment and a working directory of its own, and no pauses."""
    for name in ("PORT", "BLOOM_DATA_DIR", "BLOOM_API_KEY", "DATABASE_URL", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BLOOM_URL", runtime.url)
    monkeypatch.setenv("RUNTIME_API_KEY", "the-key")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bloom.cli.follow.FIRST_PAUSE_SEC", 0)
    runner = CliRunner()

    def run(*args: str, stdin: str | bytes | None = None) -> Result:
        return runner.invoke(app, args, input=stdin, catch_exceptions=False, prog_name="bloom")

    return run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the user who joins, on a machine without a service manager and without the Claude CLI."""
    home = tmp_path / "home"
    home.mkdir()
    for name in (
        "BLOOM_WORKER_DIR",
        "XDG_CONFIG_HOME",
        "CLAUDE_CONFIG_DIR",
        "ANTHROPIC_API_KEY",
        "CLAUDE_CODE_OAUTH_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(joining, "this_person", always(person(home)))
    manage_services_by(monkeypatch, None)
    return home


@pytest.fixture
def up(tmp_path: Path, made_database: Path) -> Generator[Starter]:
    with starter(tmp_path, made_database) as start:
        yield start
