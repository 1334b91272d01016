"""`bloom doctor`: what it says of a sound installation, and of each thing that can be wrong with one."""

import asyncio
import json
import os
import socket
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real_membridge import KEY as MEMBRIDGE_KEY
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica
from typer.testing import CliRunner

from bloom.base.errors import ConfigurationError
from bloom.base.findings import Finding
from bloom.base.settings import ServerSettings, load
from bloom.cli import env_file, installed_here, installed_server, installed_worker
from bloom.cli.installation import examine
from bloom.cli.main import app
from bloom.db.condition import DatabaseCondition, condition_of
from bloom.db.migrate import HEAD

KEY = "the key of all the keys of this test"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A machine with nothing of BLOOM on it: its home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(installed_here, "SERVICE_ENV_FILE", tmp_path / "bloom-runtime.env")
    monkeypatch.setattr(installed_here, "SYSTEM_UNITS", tmp_path / "units")
    monkeypatch.setattr(installed_here, "INIT_SCRIPTS", tmp_path / "init.d")
    yield tmp_path
    env_file.FROM_FILE.clear()


def looked(name: str) -> list[Finding]:
    """What is said of one thing."""
    return [each for each in asyncio.run(examine(None)) if each.name == name]


def verdict_of(name: str) -> tuple[str, str]:
    """What is said of a thing of which one finding is made."""
    (found,) = looked(name)
    return found.verdict, found.text


@pytest.fixture
def installed(
    machine: Path, monkeypatch: pytest.MonkeyPatch, database: FreshDatabase, start_replica: StartReplica
) -> Generator[Replica]:
    """A whole installation: a runtime, Membridge, a directory for artifacts, a data directory, a worker."""
    with Membridge(database.url) as membridge:
        replica = start_replica(RUNTIME_API_KEY=KEY)
        environment = {
            "DATABASE_URL": database.url,
            "RUNTIME_API_KEY": KEY,
            "BLOOM_URL": replica.url,
            "BLOOM_RUNTIME_PORT": replica.url.rpartition(":")[2],
            "BLOOM_BLOB_DIR": str(machine / "blobs"),
            "BLOOM_DATA_DIR": str(machine / "data"),
            "MEMBRIDGE_SERVER_URL": membridge.url,
            "MEMBRIDGE_ADMIN_KEY": MEMBRIDGE_KEY,
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (machine / "data").mkdir(mode=0o700)
        secret = machine / "data" / "secret.key"
        secret.write_text("secret")
        secret.chmod(0o600)
        worker = machine / ".bloom-worker"
        worker.mkdir()
        (worker / "worker.toml").write_text('executor = "command"\n')
        yield replica


def test_a_sound_installation_has_no_problem_and_no_secret_is_told(installed: Replica) -> None:
    told = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    found = json.loads(told.stdout)
    assert told.exit_code == 0 and found["ok"] is True, told.stdout
    by_name = {each["name"]: each for each in found["checks"]}
    for name in ("port", "database", "object store", "Membridge", "runtime", "key", "worker", "secret.key"):
        assert by_name[name]["verdict"] == "ok", by_name[name]
    assert "is the runtime's" in by_name["port"]["text"]
    assert KEY not in told.stdout and MEMBRIDGE_KEY not in told.stdout


def test_keys_that_are_refused_are_told_apart(installed: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOOM_API_KEY", "another key")
    monkeypatch.setenv("MEMBRIDGE_ADMIN_KEY", "another key")
    told = CliRunner().invoke(app, ["doctor"], catch_exceptions=False)
    assert told.exit_code == 1
    assert "the runtime refuses the key" in told.stdout and "Membridge refuses the key" in told.stdout


def test_files_that_others_may_read_are_named_with_the_command_that_helps(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOOM_DATA_DIR", str(machine / "data"))
    (machine / "data").mkdir()
    secret = machine / "data" / "secret.key"
    secret.write_text("secret")
    secret.chmod(0o640)
    (machine / "data").chmod(0o770)
    environment = machine / "bloom-runtime.env"
    environment.write_text("BLOOM_HOST=::1\n")
    environment.chmod(0o644)
    directory, key = installed_here.data_files(load(ServerSettings))
    assert directory.verdict == "problem" and key.fix.startswith(f"chmod 600 {secret}")
    file, hint = installed_here.env_files()
    assert (file.verdict, hint.verdict) == ("problem", "warning")
    assert hint.fix == f"bloom --env-file {environment} doctor"


def test_what_answers_nobody_is_a_problem_where_it_was_named_and_a_warning_where_it_was_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setenv("PORT", str(taken))
        monkeypatch.setattr(installed_server, "_ASK_SEC", 0.1)
        (port,) = installed_server.port(load(ServerSettings))
        assert (port.verdict, port.text) == ("problem", f"{taken} is in use by another program")
    nowhere = f"http://127.0.0.1:{taken}"
    assert verdict_of("runtime")[0] == "warning"
    monkeypatch.setenv("BLOOM_URL", nowhere)
    monkeypatch.setenv("DATABASE_URL", f"postgresql://nobody@127.0.0.1:{taken}/none")
    monkeypatch.setenv("MEMBRIDGE_SERVER_URL", nowhere)
    monkeypatch.setenv("MEMBRIDGE_ADMIN_KEY", "key")
    found = {each.name: each for each in asyncio.run(examine(None))}
    for name in ("runtime", "database", "Membridge"):
        assert found[name].verdict == "problem" and found[name].fix, found[name]
    assert found["port"].verdict == "ok"


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("BLOOM_DB_POOL_SIZE", "many", "problem"),
        ("BLOOM_RATE_LIMITS", "off", "warning"),
    ],
)
def test_settings_that_are_wrong_or_misspelt_are_told(
    name: str, value: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = looked("settings")
    assert found[0].verdict == verdict and name in found[0].text


@pytest.mark.parametrize(
    ("environment", "name", "verdict"),
    [
        ({"BLOOM_CORS_ORIGINS": "*"}, "runtime settings", "problem"),
        ({"BLOOM_ENV": "production"}, "runtime settings", "problem"),
        ({"RUNTIME_API_KEY": "short"}, "RUNTIME_API_KEY", "warning"),
        ({"RUNTIME_API_KEY": KEY, "RUNTIME_API_KEY_PREVIOUS": KEY}, "RUNTIME_API_KEY_PREVIOUS", "warning"),
        ({}, "RUNTIME_API_KEY", "warning"),
    ],
)
def test_settings_that_do_not_fit_together_or_are_weak_are_told(
    environment: dict[str, str], name: str, verdict: str, machine: Path
) -> None:
    found = installed_server.settings_fit(load(ServerSettings, **environment))
    assert [each.verdict for each in found if each.name == name] == [verdict]
    assert list(machine.iterdir()) == []


def test_a_worker_file_that_is_wrong_and_a_key_that_others_may_read_are_told(machine: Path) -> None:
    worker = machine / ".bloom-worker"
    worker.mkdir()
    (worker / "worker.toml").write_text("slots = 99\n")
    verdict, text = verdict_of("worker")
    assert verdict == "problem" and "slots" in text
    (worker / "worker.toml").write_text("slots = 9\n")
    (worker / "key").write_text("key")
    (worker / "key").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        asyncio.run(installed_worker.worker())


def test_a_worker_without_the_claude_cli_is_told_what_to_do(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / ".bloom-worker").mkdir()
    monkeypatch.setenv("PATH", str(machine))
    _, found, *user = asyncio.run(installed_worker.worker())
    assert found.verdict == "warning" and "not on PATH" in found.text and "log in" in found.fix
    assert [each.name for each in user] == (["user"] if os.geteuid() == 0 else [])


def test_services_that_do_not_run_are_told_with_the_command_that_starts_them(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "units").mkdir()
    for name in ("bloom-runtime", "bloom-worker", "membridge-server"):
        (machine / "units" / f"{name}.service").write_text("")
    (machine / "init.d").mkdir()
    (machine / "init.d" / "bloom-worker").write_text("")
    states = {"bloom-runtime": "active", "bloom-worker": "inactive", "membridge-server": "failed"}

    def say(command: list[str], *, fails: bool = False) -> str | None:
        return states[command[-1]] if command[0] == "systemctl" else None

    monkeypatch.setattr(installed_here, "_say", say)
    monkeypatch.setattr(installed_here, "init_system", lambda: "systemd")
    found = [(each.name, each.verdict) for each in installed_here.services()]
    assert found == [
        ("bloom-runtime", "ok"),
        ("membridge-server", "problem"),
        ("bloom-worker", "warning"),
        ("bloom-worker", "warning"),
    ]


def test_a_sound_database_is_told_as_it_is(database: FreshDatabase) -> None:
    condition = condition_of(database.url)
    assert condition.revision == HEAD and condition.version_number >= 140_000 and condition.may_create
    assert abs(condition.clock_ahead_sec) < 60 and condition.encoding == "UTF8" and not condition.read_only


SOUND = DatabaseCondition(
    version="16.0",
    version_number=160_000,
    encoding="UTF8",
    fsync=True,
    full_page_writes=True,
    synchronous_commit=True,
    read_only=False,
    max_connections=100,
    may_create=True,
    revision=HEAD,
    clock_ahead_sec=0.0,
)


@pytest.mark.parametrize(
    ("change", "verdict", "word"),
    [
        ({}, None, ""),
        ({"version_number": 130_000}, "problem", "PostgreSQL 14"),
        ({"encoding": "LATIN1"}, "problem", "LATIN1"),
        ({"fsync": False}, "problem", "fsync is off"),
        ({"synchronous_commit": False}, "problem", "synchronous_commit is off"),
        ({"read_only": True}, "problem", "no writes"),
        ({"may_create": False}, "problem", "may not make tables"),
        ({"revision": "0001"}, "warning", "older than this release"),
        ({"revision": None}, "warning", "older than this release"),
        ({"revision": "9999"}, "problem", "newer release"),
        ({"max_connections": 10}, "warning", "9 connections are needed"),
        ({"clock_ahead_sec": -10.0}, "warning", "10 s behind"),
    ],
)
def test_a_database_that_will_not_do_is_told_why(change: dict[str, object], verdict: str | None, word: str) -> None:
    found = installed_server.judge_database(replace(SOUND, **change), load(ServerSettings))  # pyright: ignore[reportArgumentType]
    assert [each.verdict for each in found] == ([] if verdict is None else [verdict])
    assert all(word in each.text and each.fix for each in found)
