"""worker.toml: what it may say, and what is said when it is wrong."""

import os
from pathlib import Path

import pytest

from bloom.base.errors import ConfigurationError
from bloom.worker.config import AgentSettings, WorkerConfig, load_worker_config

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "docs" / "worker.example.toml"


def load(text: str, tmp_path: Path) -> WorkerConfig:
    path = tmp_path / "worker.toml"
    path.write_text(text)
    return load_worker_config(path)


def complaint(text: str, tmp_path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(text, tmp_path)
    return caught.value.message


def test_a_file_that_does_not_exist_means_all_defaults(tmp_path: Path) -> None:
    config = load_worker_config(tmp_path / "nothing.toml")
    assert config == WorkerConfig()
    assert config.agent("anyone") == AgentSettings()
    assert (config.executor, config.claude.path, config.command.argv) == (None, "claude", None)


def test_the_example_loads_and_so_does_each_line_that_it_only_shows(tmp_path: Path) -> None:
    config = load_worker_config(EXAMPLE)
    assert config.agent("reviewer").allowed_tools[-1] == "Bash(git log *)"
    lines = EXAMPLE.read_text().splitlines()
    shown = load("\n".join(line[1:] if line.startswith("#") and " = " in line else line for line in lines
                           if line != "pass_env = []"), tmp_path)  # fmt: skip
    assert (shown.executor, shown.pass_env[-1], shown.agent("x").max_turns) == ("claude", "AWS_*", 30)
    assert shown.command.argv == ["ollama", "run", "llama3.2"]
    assert shown.agent("reviewer").working_directory == os.path.expanduser("~/projects/site")  # noqa: PTH111


def test_the_example_shows_every_key() -> None:
    text = EXAMPLE.read_text()
    for table in (WorkerConfig, AgentSettings):
        for key in table.model_fields:
            assert f"\n{key} = " in text or f"\n#{key} = " in text or f"[{key}" in text or f".{key}]" in text, key


def test_an_agent_takes_from_the_default_what_it_does_not_say(tmp_path: Path) -> None:
    config = load(
        """
        [agents.default]
        model = "sonnet"
        max_turns = 5
        allowed_tools = ["Read"]
        env = {A = "1", B = "1"}
        [agents.coder]
        model = "opus"
        allowed_tools = []
        env = {B = "2"}
        """,
        tmp_path,
    )
    coder = config.agent("coder")
    assert (coder.model, coder.max_turns, coder.allowed_tools) == ("opus", 5, [])
    assert coder.env == {"A": "1", "B": "2"}
    assert config.agent("other") == config.agent("default")
    assert config.agent("other").model == "sonnet"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("exector = 1", ["exector: there is no such key", "known here: runtime, name, slots, labels, executor"]),
        ("[agents.a]\nmodle = 'x'", ["agents.a.modle: there is no such key", "model"]),
        ("[claude]\nargv = []", ["claude.argv: there is no such key", "known here: path, args"]),
        ("executor = 'gemini'", ["executor: must be 'claude' or 'command'"]),
        ("stop_grace_sec = 'x'", ["stop_grace_sec: must be a number"]),
        ("stop_grace_sec = 61", ["stop_grace_sec: must be less than or equal to 60"]),
        ("[command]\nargv = 'x'", ["command.argv: must be an array"]),
        ("[command]\nargv = []", ["command.argv: must not be empty"]),
        ("[agents.a]\nmax_turns = '3'", ["agents.a.max_turns: must be a whole number"]),
        ("[agents.a]\nmax_turns = 0", ["agents.a.max_turns: must be greater than or equal to 1"]),
        ("[agents.a]\npermission_mode = 'all'", ["agents.a.permission_mode: must be 'acceptEdits'", "'plan'"]),
        ("[agents.a]\nworking_directory = 'x'", ["agents.a.working_directory: must be an absolute path"]),
        ("[agents.a]\nallowed_tools = ['--x']", ["agents.a.allowed_tools.0: must not be empty or begin with a hyphen"]),
        ("agents = 3", ["agents: must be a table"]),
        ("pass_env = ['*']", ["pass_env.0: must be the name of a variable"]),
        ("pass_env = ['BLOOM_API_KEY']", ["pass_env.0: is a secret of BLOOM"]),
        ("[agents.a.env]\nMINIO_SECRET_KEY = 'x'", ["agents.a.env.MINIO_SECRET_KEY: is a secret of BLOOM"]),
        ("[agents.a.env]\nA = 1", ["agents.a.env.A: must be text in quotes"]),
        ("executor =", ["worker.toml cannot be read", "end of document"]),
        ('x = "\x00"', ["worker.toml cannot be read"]),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(text: str, parts: list[str], tmp_path: Path) -> None:
    message = complaint(text, tmp_path)
    for part in parts:
        assert part in message


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    message = complaint("x = 1\ny = 2\n[agents.a]\nz = 3", tmp_path)
    assert [key in message for key in ("x:", "y:", "agents.a.z:")] == [True, True, True]


def test_values_are_not_repeated_in_an_error(tmp_path: Path) -> None:
    assert "hunter2" not in complaint("[agents.a]\nmodel = ['hunter2']\nmax_turns = 'hunter2'", tmp_path)
