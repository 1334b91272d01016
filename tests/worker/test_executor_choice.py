"""Which executor a worker uses, and what it costs to know."""

import subprocess
import sys
from pathlib import Path

import pytest

from bloom.base.errors import ConfigurationError
from bloom.worker.config import ClaudeSettings, CommandSettings, WorkerConfig
from bloom.worker.executors.choice import ExecutorChoice, build_executor, choose_executor


def program(directory: Path, script: str) -> Path:
    path = directory / "claude"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_claude_is_chosen_where_it_is_on_path(tmp_path: Path) -> None:
    found = program(tmp_path, 'echo "2.1.197 (Claude Code) $BLOOM_API_KEY"')
    environment = {"PATH": str(tmp_path), "BLOOM_API_KEY": "secret"}
    assert choose_executor(environment=environment) == ExecutorChoice("claude", f"{found} (2.1.197)")


@pytest.mark.parametrize("script", ["exit 1", "exec sleep 300"])
def test_a_cli_that_does_not_say_its_version_is_chosen_too(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloom.worker.executors.choice._VERSION_SEC", 0.2)
    found = program(tmp_path, script)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert choose_executor(environment=environment) == ExecutorChoice("claude", str(found))


def test_without_it_the_command_is_and_the_reason_says_what_was_looked_for(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    assert choose_executor(environment=environment) == ExecutorChoice(
        "command", "no `claude` on PATH: the built-in demo answers"
    )
    config = WorkerConfig(claude=ClaudeSettings(path="/opt/claude"), command=CommandSettings(argv=["cat"]))
    assert choose_executor(config, environment) == ExecutorChoice(
        "command", "no `/opt/claude`: the command of worker.toml runs"
    )


def test_what_the_file_says_goes_first(tmp_path: Path) -> None:
    program(tmp_path, "echo 2.1.197")
    choice = choose_executor(WorkerConfig(executor="command"), {"PATH": str(tmp_path)})
    assert choice == ExecutorChoice("command", "worker.toml says so")


def test_executors_are_built_by_name(tmp_path: Path) -> None:
    for name in ("claude", "command"):
        assert build_executor(WorkerConfig(), tmp_path, name).name == name
    with pytest.raises(ConfigurationError, match="must be claude or command"):
        build_executor(WorkerConfig(), tmp_path, "gemini")


def test_the_executors_are_light() -> None:
    code = """
import psutil, sys
from bloom.worker.executors import choice, claude, command
heavy = {"psycopg", "fastapi", "starlette", "uvicorn", "sqlalchemy", "obstore", "typer"} & set(sys.modules)
print(psutil.Process().memory_info().rss // 1024**2, *sorted(heavy))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert said[1:] == []
    assert int(said[0]) < 60  # MB, of 80 for the whole worker
