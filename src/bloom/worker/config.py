"""The worker's configuration file (TOML, optional): runtime, name, slots, executor, Claude CLI, agents, command.

Every key is shown, with comments, in `docs/worker.example.toml`.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bloom.base.errors import ConfigurationError
from bloom.client.address import check_url
from bloom.worker.executors.environment import is_withheld
from bloom.worker.options import worker_label, worker_name

CONFIG_FILE = "worker.toml"
"""Its name in the worker directory."""

DEFAULT_AGENT = "default"
"""The agent whose settings hold where an agent has none of its own."""

ExecutorName = Literal["claude", "command"]
PermissionMode = Literal["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan"]


def _storable_in_argv(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not hold a NUL character")
    return text


def _not_an_option(text: str) -> str:
    if not text.strip() or text.startswith("-"):
        raise ValueError("must not be empty or begin with a hyphen")
    return _storable_in_argv(text)


def _passable(name: str) -> str:
    if not name.strip("*") or name.count("*") > 1 or "=" in name or "\x00" in name:
        raise ValueError('must be the name of a variable; one "*" in it stands for anything')
    if is_withheld(name):
        raise ValueError("is a secret of BLOOM and is given to no child")
    return name


def _absolute(path: str) -> str:
    expanded = os.path.expanduser(_storable_in_argv(path))  # noqa: PTH111 - a Path would lose "~nobody" in an error
    if not os.path.isabs(expanded):  # noqa: PTH117
        raise ValueError("must be an absolute path, or begin with ~")
    return expanded


def _address(text: str) -> str:
    try:
        return check_url(text, "it")
    except ConfigurationError as error:
        raise ValueError(error.message) from None


Argument = Annotated[str, AfterValidator(_storable_in_argv)]
PlainWord = Annotated[str, AfterValidator(_not_an_option)]
VariableName = Annotated[str, AfterValidator(_passable)]
Directory = Annotated[str, AfterValidator(_absolute)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class AgentSettings(_Table):
    """How tasks of one `agent_slug` are run by the Claude CLI. What is None is left to the CLI."""

    model: PlainWord | None = None
    append_system_prompt: Argument | None = None
    allowed_tools: list[PlainWord] = []
    disallowed_tools: list[PlainWord] = []
    permission_mode: PermissionMode | None = None
    working_directory: Directory | None = None
    max_turns: int | None = Field(default=None, ge=1)
    env: dict[VariableName, Argument] = {}


class ClaudeSettings(_Table):
    """The Claude CLI: its program (a name on PATH or a path) and arguments put before all others."""

    path: PlainWord = "claude"
    args: list[Argument] = []


class CommandSettings(_Table):
    """The program of the `command` executor; None means the built-in demo."""

    argv: list[Argument] | None = Field(default=None, min_length=1)


class LimitSettings(_Table):
    """Beyond these the worker takes nothing new; what runs goes on. 0 switches a `min_...` off, None a `max_...`."""

    min_free_memory_mb: int = Field(default=200, ge=0)
    min_free_disk_mb: int = Field(default=200, ge=0)
    max_load_per_core: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_temperature_c: float | None = Field(default=None, ge=20, le=150)


class WorkerConfig(_Table):
    """The whole file. Durations are in seconds. What `bloom worker` is told by its options goes before `runtime`, `name`,
    `slots`, `labels` and `membridge`.
    """

    runtime: Annotated[str, AfterValidator(_address)] | None = None
    name: Annotated[str, AfterValidator(worker_name)] | None = None
    slots: int | None = Field(default=None, ge=1, le=32)
    labels: list[Annotated[str, AfterValidator(worker_label)]] | None = Field(default=None, max_length=64)
    executor: ExecutorName | None = None
    membridge: Annotated[str, AfterValidator(_address)] | None = None
    stop_grace_sec: float = Field(default=3.0, ge=0, le=60)
    pass_env: list[VariableName] = []
    claude: ClaudeSettings = ClaudeSettings()
    command: CommandSettings = CommandSettings()
    limits: LimitSettings = LimitSettings()
    agents: dict[str, AgentSettings] = {}

    def agent(self, slug: str) -> AgentSettings:
        """The settings of `slug`: its own where it has them, else those of `[agents.default]`; `env` of both."""
        common = self.agents.get(DEFAULT_AGENT, AgentSettings())
        own = self.agents.get(slug, AgentSettings())
        settings = common.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
        return settings.model_copy(update={"env": {**common.env, **own.env}})


_TABLES: Mapping[str, type[_Table]] = {
    "claude": ClaudeSettings,
    "command": CommandSettings,
    "limits": LimitSettings,
    "agents": AgentSettings,
}


def load_worker_config(path: Path) -> WorkerConfig:
    """Read `path`; a file that does not exist means all defaults.

    Raises ConfigurationError that names each wrong key and says what would be right.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return WorkerConfig()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error}") from None
    try:
        return WorkerConfig.model_validate(table)
    except ValidationError as error:
        problems = [_describe(problem["loc"], problem) for problem in error.errors(include_input=False)]
        raise ConfigurationError(f"{path.name}: " + "; ".join(problems)) from None


_RIGHT = {
    "string_type": "must be text in quotes",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "list_type": 'must be an array, as in ["one", "two"]',
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "too_short": "must not be empty",
}


def _describe(location: tuple[int | str, ...], problem: Mapping[str, Any]) -> str:
    key = ".".join(str(part) for part in location if part != "[key]")
    if problem["type"] != "extra_forbidden":
        message = str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
        return f"{key}: {_RIGHT.get(problem['type'], message)}"
    table = WorkerConfig if len(location) == 1 else _TABLES[str(location[0])]
    return f"{key}: there is no such key; known here: {', '.join(table.model_fields)}"
