"""`bloom config show`, `--env-file`, and the places where every setting stands."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bloom.base.errors import ConfigurationError
from bloom.base.settings import ServerSettings, load
from bloom.cli.config_catalog import PROGRAMS, all_variables
from bloom.sync.settings import SyncSettings

ROOT = Path(__file__).parents[2]
KEY = "the-key-of-all-keys"


def bloom(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "bloom", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), **environment},
    )


def shown(output: str) -> dict[tuple[str, str], dict[str, Any]]:
    settings = json.loads(output)["settings"]
    return {(each["program"], name): each for each in settings for name in each["names"]}


def test_the_example_file_holds_every_setting_and_no_more() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    named = [match[1] for line in lines if (match := re.fullmatch(r"#?([A-Z][A-Z0-9_]*)=.*", line))]
    assert sorted(named) == sorted(all_variables())


def test_the_page_on_configuration_names_every_setting() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert {name for name in all_variables() if f"`{name}`" not in page} == set()


def test_the_defaults_of_the_example_file_are_those_of_the_settings(tmp_path: Path) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    given = {line[1:].partition("=")[0]: line.partition("=")[2] for line in lines if re.match(r"#[A-Z]", line)}
    for classes in PROGRAMS.values():
        for cls in classes:
            for field in cls.model_fields.values():
                default = field.get_default(call_default_factory=True)
                if field.default_factory is None and isinstance(default, bool | int | float | str) and default != "":
                    text = str(default).lower() if isinstance(default, bool) else str(default)
                    assert given[str(field.validation_alias)] == text


def test_each_setting_is_shown_with_its_source_and_no_secret(tmp_path: Path) -> None:
    (tmp_path / "env").write_text(f"RUNTIME_API_KEY={KEY}\nBLOOM_PROCESSES=3\nBLOOM_HOST='::1'\n# a comment\n")
    worker = tmp_path / ".bloom-worker"
    worker.mkdir()
    (worker / "worker.toml").write_text(f'slots = 4\n[agents.default.env]\nANTHROPIC_API_KEY = "{KEY}"\n')
    environment = {
        "BLOOM_PROCESSES": "2",
        "DATABASE_URL": f"postgresql://bloom:{KEY}@db:5432/bloom",
        "MINIO_SECRET_KEY": KEY,
        "BLOOM_MAX_CONECTIONS": "5",
        "BLOOM_LEASE_ID": "of a child",
    }
    arguments = ("--env-file", "env", "config", "show")
    told = bloom(*arguments, "--json", cwd=tmp_path, **environment)
    assert told.returncode == 0, told.stderr
    settings = shown(told.stdout)
    for name, value, source in (
        ("BLOOM_PROCESSES", 2, "environment BLOOM_PROCESSES"),
        ("BLOOM_HOST", "::1", "env BLOOM_HOST"),
        ("RUNTIME_API_KEY", "********", "env RUNTIME_API_KEY"),
        ("MINIO_SECRET_KEY", "********", "environment MINIO_SECRET_KEY"),
        ("DATABASE_URL", "postgresql://bloom:********@db:5432/bloom", "environment DATABASE_URL"),
        ("BLOOM_RATE_LIMIT", "100/minute", "default"),
    ):
        found = settings["runtime", name]
        assert (found["value"], found["source"]) == (value, source)
    assert settings["worker.toml", "slots"]["value"] == 4
    assert settings["worker.toml", "slots"]["source"].endswith("worker.toml")
    assert settings["worker.toml", "agents.default.env"]["value"] == {"ANTHROPIC_API_KEY": "********"}
    assert json.loads(told.stdout)["unknown"] == [{"name": "BLOOM_MAX_CONECTIONS", "meant": "BLOOM_MAX_CONNECTIONS"}]
    for_people = bloom(*arguments, cwd=tmp_path, **environment)
    assert "nothing reads BLOOM_MAX_CONECTIONS: probably BLOOM_MAX_CONNECTIONS was meant" in for_people.stderr
    assert KEY not in told.stdout + told.stderr + for_people.stdout + for_people.stderr


def test_what_is_wrong_is_shown_with_what_would_be_right_and_the_rest_all_the_same(tmp_path: Path) -> None:
    environment = {"PORT": "99999", "BLOOM_LOG_FORMAT": KEY, "RUNTIME_API_KEY": KEY, "DATABASE_URL": KEY}
    told = bloom("config", "show", "--json", cwd=tmp_path, **environment)
    settings = shown(told.stdout)
    assert told.returncode == 2 and json.loads(told.stdout)["ok"] is False
    assert settings["runtime", "BLOOM_LOG_FORMAT"]["problem"] == "must be human or json"
    assert settings["runtime", "PORT"]["problem"] == "must be a whole number from 0 to 65535"
    assert settings["runtime", "BLOOM_DB_POOL_SIZE"]["value"] == 8
    assert KEY not in told.stdout + told.stderr


def test_a_file_of_variables_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    ended = bloom("--env-file", "nothing.env", "version", cwd=tmp_path)
    assert ended.returncode == 2 and "--env-file: nothing.env cannot be read" in ended.stderr


@pytest.mark.parametrize(
    ("cls", "variable", "value", "right"),
    [
        (ServerSettings, "BLOOM_DB_POOL_SIZE", "many", "must be a whole number from 2 to 100"),
        (ServerSettings, "BLOOM_DB_POOL_SIZE", "1", "must be a whole number from 2 to 100"),
        (ServerSettings, "BLOOM_MAX_BODY_BYTES", "1.5", "must be a whole number of at least 1024"),
        (ServerSettings, "BLOOM_HEADER_TIMEOUT_SEC", "0", "must be a number above 0, at most 3600"),
        (ServerSettings, "BLOOM_ALLOW_NO_AUTH", "perhaps", "must be true or false (1 or 0)"),
        (ServerSettings, "BLOOM_LOG_FORMAT", "xml", "must be human or json"),
        (ServerSettings, "PORT", "5000s", "must be a whole number from 0 to 65535"),
        (SyncSettings, "CLAUDE_PROJECT_ID", "x" * 129, "must be text of at most 128 characters"),
    ],
)
def test_an_error_at_the_start_names_the_variable_and_what_would_be_right(
    cls: type[Any], variable: str, value: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as caught:
        load(cls)
    assert caught.value.message == f"{variable} {right}"
