"""Whether the Claude CLI is there and has a login, as far as can be seen without asking anybody."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bloom.cli.machine import Person
from bloom.cli.terminal import clean_line
from bloom.worker.config import WorkerConfig
from bloom.worker.executors.choice import choose_executor

_VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
_LONGEST_FILE = 8 * 1024 * 1024


def describe_claude(config: WorkerConfig, person: Person, environment: Mapping[str, str]) -> list[str]:
    """Lines for the person who joins: the program and its version, and where its login is. Holds no secret."""
    if config.executor == "command":
        return ["not needed: worker.toml runs tasks by a command"]
    if person.is_root_for_another:
        # Root does not run what another user may have put there.
        path = os.pathsep.join([environment.get("PATH", os.defpath), f"{person.home}/.local/bin"])
        found = shutil.which(config.claude.path, path=path)
    else:
        choice = choose_executor(config.model_copy(update={"executor": None}), environment)
        found = choice.reason if choice.name == "claude" else None
    if found is None:
        return [
            f"`{clean_line(config.claude.path)}` is not on PATH: install the Claude CLI and log in, or set `executor` in "
            "worker.toml to run another program"
        ]
    login = find_login(config, person.home, {} if person.is_root_for_another else environment)
    return [clean_line(found), login or "no login found: run `claude` once and log in, or tasks will fail"]


def find_login(config: WorkerConfig, home: Path, environment: Mapping[str, str]) -> str | None:
    """Where the login of the Claude CLI is, in words; None when none was found. Values are looked at, never told."""
    agent = config.agent("")
    for name in _VARIABLES:
        if agent.env.get(name):
            return f"login: {name} in worker.toml"
    named = environment.get("CLAUDE_CONFIG_DIR")
    directory = Path(named) if named else home / ".claude"
    if "claudeAiOauth" in _read_object(directory / ".credentials.json"):
        return "login: its credentials file"
    if "primaryApiKey" in _read_object(directory / ".claude.json" if named else home / ".claude.json"):
        return "login: its config file"
    settings = _read_object(directory / "settings.json")
    given = settings.get("env")
    if "apiKeyHelper" in settings or (isinstance(given, dict) and any(name in given for name in _VARIABLES)):
        return "login: its settings file"
    for name in _VARIABLES:
        if environment.get(name):
            return f"login: {name} of this shell, which a service does not see (worker.toml, [agents.default], can hold it)"
    if sys.platform == "darwin":
        return "login: kept in the Keychain, which is not looked at"
    return None


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty for anything else."""
    try:
        with path.open("rb") as file:
            content: object = json.loads(file.read(_LONGEST_FILE))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", content) if isinstance(content, dict) else {}
