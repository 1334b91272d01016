"""Which executor a worker uses, and why."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bloom.base.errors import ConfigurationError
from bloom.worker.config import ExecutorName, WorkerConfig
from bloom.worker.executors.environment import child_environment
from bloom.worker.executors.interface import Executor
from bloom.worker.workspace import Workspace

_VERSION_SEC = 3.0


@dataclass(frozen=True)
class ExecutorChoice:
    """The chosen executor and the reason, a sentence for the person who starts the worker."""

    name: ExecutorName
    reason: str


def choose_executor(config: WorkerConfig | None = None, environment: Mapping[str, str] | None = None) -> ExecutorChoice:
    """The executor that worker.toml names; else `claude` where the Claude CLI is on PATH; else `command`.

    Asks the CLI for its version, for at most 3 s. `environment` is this process's own by default.
    """
    config = config or WorkerConfig()
    environment = os.environ if environment is None else environment
    if config.executor is not None:
        return ExecutorChoice(config.executor, "worker.toml says so")
    wanted = config.claude.path
    found = shutil.which(wanted, path=environment.get("PATH"))
    if found is not None:
        version = _version_of(found, environment)
        return ExecutorChoice("claude", f"{found} ({version})" if version else found)
    runs = "the command of worker.toml runs" if config.command.argv else "the built-in demo answers"
    where = f"no `{wanted}`" if os.sep in wanted else f"no `{wanted}` on PATH"
    return ExecutorChoice("command", f"{where}: {runs}")


def build_executor(
    config: WorkerConfig, workspace_dir: Path, name: str, environment: Mapping[str, str] | None = None
) -> Executor:
    """The executor called `name`, keeping its directories and sessions under `workspace_dir`.

    Raises ConfigurationError when there is none of that name. `environment` is this process's own by default.
    """
    environment = os.environ if environment is None else environment
    workspace = Workspace(workspace_dir)
    match name:
        case "claude":
            from bloom.worker.executors.claude import ClaudeExecutor

            return ClaudeExecutor(config, workspace, environment)
        case "command":
            from bloom.worker.executors.command import CommandExecutor

            return CommandExecutor(config, workspace, environment)
        case _:
            raise ConfigurationError(f"there is no executor {name!r}: it must be claude or command")


def _version_of(program: str, environment: Mapping[str, str]) -> str | None:
    env = {**child_environment(environment), "DISABLE_AUTOUPDATER": "1"}
    try:
        done = subprocess.run(
            [program, "--version"], env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=_VERSION_SEC
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = done.stdout.decode(errors="replace").split()
    return said[0] if said and done.returncode == 0 else None
