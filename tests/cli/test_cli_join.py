"""`bloom worker join`: what it asks of the runtime, and what it leaves on the machine."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from fake_runtime import Answer, Bloom, FakeRuntime
from new_machine import KEY, TOKEN, always, joined, mode_of

from bloom.cli import joining
from bloom.cli.claude_login import find_login
from bloom.worker.config import WorkerConfig, load_worker_config
from bloom.worker.joined import read_key, store_key, write_config


def test_join_stores_a_key_that_nobody_else_can_read_and_a_config_that_says_what_it_is(
    runtime: FakeRuntime, bloom: Bloom, home: Path
) -> None:
    runtime.on("POST", "/keys/join", joined())
    done = bloom("worker", "join", runtime.url + "/", TOKEN, "--slots", "3")
    assert done.exit_code == 0, done.stderr
    directory = home / ".bloom-worker"
    assert (directory / "key").read_text() == KEY + "\n"
    assert [mode_of(path) for path in (directory, directory / "key", directory / "worker.toml")] == [
        0o700,
        0o600,
        0o600,
    ]
    config = load_worker_config(directory / "worker.toml")
    assert (config.runtime, config.name, config.slots) == (runtime.url, "pi4", 3)
    (asked,) = runtime.seen
    assert asked.headers["x-runtime-api-key"] == TOKEN
    assert set(asked.body) == {"hostname"}
    assert "is the worker pi4 of" in done.stdout and str(directory / "key") in done.stdout
    for secret in (KEY, TOKEN):
        assert secret not in done.stdout + done.stderr


def test_the_comments_of_the_config_show_keys_that_there_are(tmp_path: Path) -> None:
    path = write_config(tmp_path, runtime="http://h:5000", name='a "quoted" ü \\ name', slots=1)
    assert load_worker_config(path).name == 'a "quoted" ü \\ name'
    text = re.sub(r"^#(?=[a-z\[])", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(text)
    config = load_worker_config(path)
    assert {"runtime", "name", "slots", "executor", "claude", "command", "agents"} <= set(tomllib.loads(text))
    assert config.agent("any").env == {"ANTHROPIC_API_KEY": "..."}


def test_the_token_can_come_from_stdin(runtime: FakeRuntime, bloom: Bloom, home: Path) -> None:
    runtime.on("POST", "/keys/join", joined())
    assert bloom("worker", "join", runtime.url, "-", "--name", "pi4", stdin=f"{TOKEN}\n").exit_code == 0
    assert runtime.seen[0].headers["x-runtime-api-key"] == TOKEN
    assert runtime.seen[0].body == {"name": "pi4"}


@pytest.mark.parametrize(
    ("url", "token", "why"),
    [
        ("nonsense", TOKEN, "URL must be an address"),
        ("http://user:secret@h", TOKEN, "user name or password"),
        ("http://h", "guess", "not a join token"),
        ("http://h", KEY, "role worker"),
        ("http://h", TOKEN[:-1], "not a join token"),
    ],
)
def test_a_wrong_address_or_token_is_told_before_anything_is_sent(
    bloom: Bloom, home: Path, url: str, token: str, why: str
) -> None:
    done = bloom("worker", "join", url, token)
    assert done.exit_code == 2 and why in done.stderr
    assert token not in done.stderr and list(home.iterdir()) == []


def test_a_token_that_is_not_taken_leaves_nothing_behind(runtime: FakeRuntime, bloom: Bloom, home: Path) -> None:
    runtime.on("POST", "/keys/join", Answer({"error": "no", "code": "unauthorized"}, 401))
    done = bloom("worker", "join", runtime.url, TOKEN)
    assert done.exit_code == 5 and done.stderr.endswith("was used up or revoked, or has expired\n")
    assert list((home / ".bloom-worker").iterdir()) == []


def test_a_lost_answer_is_told_as_one(runtime: FakeRuntime, bloom: Bloom, home: Path) -> None:
    runtime.on("POST", "/keys/join", Answer(drop=True))
    done = bloom("worker", "join", runtime.url, TOKEN)
    assert done.exit_code == 4 and "have a new one made" in done.stderr


def test_joining_again_replaces_the_key_and_leaves_the_config(runtime: FakeRuntime, bloom: Bloom, home: Path) -> None:
    directory = home / ".bloom-worker"
    directory.mkdir()
    store_key(directory, "old")
    write_config(directory, runtime=runtime.url, name="pi4", slots=7)
    with (directory / "worker.toml").open("a") as config:
        config.write("# mine\n")
    before = (directory / "worker.toml").read_text()
    runtime.on("POST", "/keys/join", joined())
    done = bloom("worker", "join", runtime.url, TOKEN)
    assert done.exit_code == 0 and "stays as it is" in done.stdout
    assert read_key(directory) == KEY and (directory / "worker.toml").read_text() == before
    assert runtime.seen[0].body == {"name": "pi4"}


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ('runtime = "http://elsewhere:5000"\nname = "pi4"', "for the worker pi4 of http://elsewhere:5000"),
        ('executor = "command"', "put these lines at its top"),
        ("nonsense = 1", "no such key"),
    ],
)
def test_a_config_of_another_worker_stops_it_before_the_token_is_used(
    runtime: FakeRuntime, bloom: Bloom, home: Path, config: str, why: str
) -> None:
    (home / ".bloom-worker").mkdir()
    (home / ".bloom-worker" / "worker.toml").write_text(config)
    done = bloom("worker", "join", runtime.url, TOKEN)
    assert done.exit_code == 2 and why in done.stderr
    assert runtime.seen == [] and not (home / ".bloom-worker" / "key").exists()


def test_a_directory_that_cannot_be_made_stops_it_before_the_token_is_used(
    runtime: FakeRuntime, bloom: Bloom, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("BLOOM_WORKER_DIR", str(home / "file" / "below"))
    done = bloom("worker", "join", runtime.url, TOKEN)
    assert done.exit_code == 2 and "worker directory" in done.stderr and runtime.seen == []


def test_a_runtime_without_encryption_elsewhere_is_warned_of(
    runtime: FakeRuntime, bloom: Bloom, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.on("POST", "/keys/join", joined())
    assert "not encrypted" not in bloom("worker", "join", runtime.url, TOKEN).stderr
    monkeypatch.setattr(joining, "is_loopback", always(False))
    assert "not encrypted" in bloom("worker", "join", runtime.url, TOKEN).stderr


def put_claude(home: Path) -> None:
    """A program called claude on PATH, which knows its version."""
    program = home.parent / "bin" / "claude"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\necho '2.1.0 (Claude Code)'\n")
    program.chmod(0o755)


def test_join_says_whether_the_claude_cli_is_there_and_logged_in(
    runtime: FakeRuntime, bloom: Bloom, home: Path
) -> None:
    runtime.on("POST", "/keys/join", joined())
    assert "is not on PATH: install the Claude CLI" in bloom("worker", "join", runtime.url, TOKEN).stdout
    put_claude(home)
    assert "no login found: run `claude` once" in (done := bloom("worker", "join", runtime.url, TOKEN)).stdout
    assert "(2.1.0)" in done.stdout
    (home / ".claude").mkdir()
    (home / ".claude" / ".credentials.json").write_text(json.dumps({"claudeAiOauth": {"accessToken": "secret"}}))
    done = bloom("worker", "join", runtime.url, TOKEN)
    assert "login: its credentials file" in done.stdout and "secret" not in done.stdout


def test_a_login_is_found_where_the_claude_cli_looks_for_it(tmp_path: Path) -> None:
    config, elsewhere = WorkerConfig(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert find_login(config, tmp_path, {}) in (None, "login: kept in the Keychain, which is not looked at")
    for name in ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"):
        told_of = find_login(config, tmp_path, {name: "secret"})
        assert told_of is not None and name in told_of and "secret" not in told_of
    (elsewhere / ".credentials.json").write_text('{"claudeAiOauth": {}}')
    assert find_login(config, tmp_path, {"CLAUDE_CONFIG_DIR": str(elsewhere)}) == "login: its credentials file"
    (tmp_path / ".claude.json").write_text('{"primaryApiKey": "secret"}')
    assert find_login(config, tmp_path, {}) == "login: its config file"
    (tmp_path / ".claude.json").write_text("[not an object")
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_text('{"apiKeyHelper": "get-key"}')
    assert find_login(config, tmp_path, {}) == "login: its settings file"
    in_config = WorkerConfig.model_validate({"agents": {"default": {"env": {"ANTHROPIC_API_KEY": "secret"}}}})
    assert find_login(in_config, tmp_path, {}) == "login: ANTHROPIC_API_KEY in worker.toml"
