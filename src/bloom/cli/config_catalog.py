"""Every setting of every program, with its value, its source and what is wrong with it."""

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from bloom.backup.settings import BackupSettings
from bloom.base.errors import ConfigurationError
from bloom.base.settings import ClientSettings, ServerSettings
from bloom.base.variables import MASK, describe_problem, is_secret, shown, variable_in_use, variables_of
from bloom.cli.env_file import FROM_FILE
from bloom.cli.up_settings import UpSettings
from bloom.membridge.settings import MembridgeSettings
from bloom.sync.claude_mem_process import LEAVE_VARIABLE
from bloom.sync.settings import SyncSettings
from bloom.worker.config import CONFIG_FILE, load_worker_config
from bloom.worker.options import WORKER_DIR_NAME, WORKER_DIR_VARIABLE, worker_dir


class _Plain(BaseSettings):
    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)


class WorkerVariables(_Plain):
    """What a worker reads besides its file and the settings of a client."""

    directory: Path = Field(default=Path("~") / WORKER_DIR_NAME, validation_alias=WORKER_DIR_VARIABLE)


class HookVariables(_Plain):
    """What the hooks of Claude Code read besides the settings of sync."""

    leave_claude_mem: bool = Field(default=False, validation_alias=LEAVE_VARIABLE)


class CommandVariables(_Plain):
    """What the command itself reads."""

    debug: bool = Field(default=False, validation_alias="BLOOM_DEBUG")


PROGRAMS: Mapping[str, tuple[type[BaseSettings], ...]] = {
    "runtime": (ServerSettings,),
    "membridge": (MembridgeSettings,),
    "up": (UpSettings,),
    "backup": (BackupSettings,),
    "client": (ClientSettings, CommandVariables),
    "worker": (WorkerVariables,),
    "sync": (SyncSettings, HookVariables),
}

OURS = ("BLOOM_", "MINIO_", "MEMBRIDGE_", "RUNTIME_API_KEY")
"""Variables that begin so are meant for BLOOM."""

_OF_CHILDREN = frozenset({"BLOOM_LEASE_ID", "BLOOM_TASK_ID", "BLOOM_DESIRED_FORMAT"})
"""Set by a worker for the programs that it runs."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `names` are its variables (or its key in worker.toml), the first that is set wins; `problem` says what
    would be right, and there is no value then.
    """

    program: str
    names: tuple[str, ...]
    value: Any
    source: str
    problem: str | None = None


def all_variables() -> set[str]:
    """The name of every variable that a setting is read from."""
    classes = (cls for group in PROGRAMS.values() for cls in group)
    return {name for cls in classes for field in cls.model_fields.values() for name in variables_of(field)}


def read_settings(worker_file: Path | None) -> list[Setting]:
    """All settings as this process would read them, those of worker.toml last. What a program shares with one before it,
    with the same default, is not told again.
    """
    told: set[tuple[tuple[str, ...], str]] = set()
    found: list[Setting] = []
    for program, classes in PROGRAMS.items():
        for cls in classes:
            for setting, field in _of_class(program, cls):
                if (known := (setting.names, repr(field.get_default(call_default_factory=True)))) not in told:
                    told.add(known)
                    found.append(setting)
    return found + list(_of_worker_file(worker_file or worker_dir() / CONFIG_FILE))


def misspelt() -> dict[str, str | None]:
    """Variables that look like ours and are none, each with the name that was probably meant."""
    known = all_variables()
    strange = sorted(
        name
        for name in os.environ
        if name.startswith(OURS) and name not in known | _OF_CHILDREN and not name.startswith("BLOOM_TEST_")
    )
    return {name: next(iter(difflib.get_close_matches(name, known, 1)), None) for name in strange}


def _of_class(program: str, cls: type[BaseSettings]) -> Iterator[tuple[Setting, FieldInfo]]:
    problems: dict[str, str] = {}
    try:
        values = cls()
    except ValidationError as error:
        problems = dict(describe_problem(cls, each) for each in error.errors(include_input=False))
        values = None
    for name, field in cls.model_fields.items():
        names = variables_of(field)
        used = variable_in_use(field, os.environ)
        if used is None:
            value, source = field.get_default(call_default_factory=True), "default"
        elif values is None:
            # One value is wrong, so there is no object to ask: the others are told as they were given.
            value = SecretStr(os.environ[used]) if is_secret(field) else os.environ[used]
            source = _source(used)
        else:
            value, source = getattr(values, name), _source(used)
        problem = None if used is None else problems.get(used)
        yield Setting(program, names, None if problem else shown(value), source, problem), field


def _source(variable: str) -> str:
    file = FROM_FILE.get(variable)
    return f"environment {variable}" if file is None else f"{file} {variable}"


def _of_worker_file(path: Path) -> Iterator[Setting]:
    try:
        config = load_worker_config(path)
    except ConfigurationError as error:
        yield Setting("worker.toml", (path.name,), None, str(path), error.message)
        return
    yield from _of_table(config, (), str(path))


def _of_table(table: BaseModel, place: tuple[str, ...], source: str) -> Iterator[Setting]:
    for name in type(table).model_fields:
        value: Any = getattr(table, name)
        key = (*place, name)
        tables: dict[str, Any] = value if name == "agents" else {}
        for slug, agent in tables.items():
            yield from _of_table(agent, (*key, slug), source)
        if isinstance(value, BaseModel):
            yield from _of_table(value, key, source)
        elif name != "agents":
            is_set = name in table.model_fields_set
            if name == "env":  # a login may stand there
                value = dict.fromkeys(value, MASK)
            yield Setting("worker.toml", (".".join(key),), value, source if is_set else "default")
