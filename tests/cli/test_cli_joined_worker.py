"""After joining: `bloom worker` needs no option, and its key goes to its runtime alone."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import Bloom, FakeRuntime
from new_machine import KEY
from tests.real_postgres import eventually
from tests.real_runtime import StartReplica, told

from bloom.worker.joined import store_key, write_config


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options that the daemon was started with."""
    seen: list[Any] = []

    def run_worker(options: Any) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr("bloom.worker.daemon.run_worker", run_worker)
    return seen


def test_a_joined_worker_needs_no_option_and_shows_its_own_key(bloom: Bloom, home: Path, started: list[Any]) -> None:
    directory = home / ".bloom-worker"
    directory.mkdir()
    write_config(directory, runtime="https://vps.example/bloom/", name="pi4", slots=3)
    store_key(directory, KEY)
    # The environment (BLOOM_URL and RUNTIME_API_KEY are set here) is the command line's.
    assert bloom("worker").exit_code == 0
    (options,) = started
    assert (options.runtime, options.name, options.slots, options.api_key) == (
        "https://vps.example/bloom",
        "pi4",
        3,
        KEY,
    )
    assert KEY not in repr(options)


def test_the_key_goes_to_no_other_runtime(bloom: Bloom, home: Path, started: list[Any]) -> None:
    directory = home / ".bloom-worker"
    directory.mkdir()
    write_config(directory, runtime="https://vps.example", name="pi4", slots=3)
    store_key(directory, KEY)
    assert bloom("worker", "--runtime", "http://elsewhere:5000", "--name", "n", "--slots", "1").exit_code == 0
    assert bloom("worker", "--runtime", "https://vps.example/").exit_code == 0
    assert [(options.api_key, options.name, options.slots) for options in started] == [
        ("the-key", "n", 1),
        (KEY, "pi4", 3),
    ]


def test_without_having_joined_a_worker_starts_as_before(
    runtime: FakeRuntime, bloom: Bloom, home: Path, started: list[Any]
) -> None:
    assert bloom("worker", "--name", "n").exit_code == 0
    (options,) = started
    assert (options.runtime, options.name, options.slots, options.api_key) == (runtime.url, "n", 1, "the-key")


def test_a_key_that_others_can_read_is_not_used(bloom: Bloom, home: Path, started: list[Any]) -> None:
    directory = home / ".bloom-worker"
    directory.mkdir()
    write_config(directory, runtime="https://vps.example", name="pi4", slots=1)
    store_key(directory, KEY).chmod(0o640)
    done = bloom("worker")
    assert done.exit_code == 2 and "chmod 600" in done.stderr and KEY not in done.stderr and started == []


def test_from_a_token_to_a_finished_task_in_two_commands(
    start_replica: StartReplica, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = start_replica(RUNTIME_API_KEY="the key of the environment")
    task = replica.create(prompt="say hello")
    environment = {"HOME": str(tmp_path), "PATH": str(tmp_path), "BLOOM_URL": replica.url, "PYTHONUNBUFFERED": "1"}
    bloom = [sys.executable, "-P", "-m", "bloom"]

    def run(*arguments: str, **more: str) -> str:
        done = subprocess.run(
            [*bloom, *arguments], env={**environment, **more}, capture_output=True, text=True, timeout=60, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    admin = {"RUNTIME_API_KEY": "the key of the environment"}
    command = run("key", "create", "--join", "--worker", "pi4", **admin).split()
    assert command[:3] == ["bloom", "worker", "join"]
    run(*command[1:], "--no-service")
    with (tmp_path / "worker.log").open("wb") as log:
        daemon = subprocess.Popen([*bloom, "worker"], env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        eventually(lambda: replica.task(task["id"])["status"] == "completed", what="the task", within_sec=60)
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
    (completed,) = [entry for entry in told(replica.get("/audit")) if entry["action"] == "task_completed"]
    keys = {key["name"]: key for key in told(replica.get("/keys"))}
    assert completed["actor"] == "worker:pi4"
    assert keys[completed["detail"]["key"].removeprefix("key:")]["worker_name"] == "pi4"
    assert "bloom_" not in (tmp_path / "worker.log").read_text()
