"""`bloom worker join`: what it asks of the runtime, what it leaves on the machine, and that a worker then needs no option."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import CREATED_MS, Answer, Bloom, FakeRuntime
from tests.real_postgres import eventually
from tests.real_runtime import StartReplica, told

from bloom.base.errors import ConfigurationError
from bloom.cli import joining
from bloom.cli.claude_login import find_login
from bloom.cli.machine import Init, Person, acting_as, this_person
from bloom.cli.service_files import NoService, ServicePlan, plan_service, write_service
from bloom.worker.config import WorkerConfig, load_worker_config
from bloom.worker.joined import read_key, store_key, write_config

TOKEN = "bloom_join_" + 43 * "t"
KEY = "bloom_worker_" + 43 * "k"


def joined(worker_name: str = "pi4", **changed: Any) -> Answer:
    """The answer to an exchange."""
    fields: dict[str, Any] = {
        "id": "id",
        "name": f"{worker_name}-1a2b",
        "role": "worker",
        "worker_name": worker_name,
        "starts_with": KEY[:17],
        "state": "active",
        "created_at": CREATED_MS,
        "created_by": "key:token",
        "expires_at": None,
        "last_used_at": None,
        "used_up_at": None,
        "revoked_at": None,
        "key": KEY,
        "asked_for": True,
        **changed,
    }
    return Answer(fields, 201)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the user who joins, on a machine without a service manager and without the Claude CLI."""
    home = tmp_path / "home"
    home.mkdir()
    for name in (
        "BLOOM_WORKER_DIR",
        "XDG_CONFIG_HOME",
        "CLAUDE_CONFIG_DIR",
        "ANTHROPIC_API_KEY",
        "CLAUDE_CODE_OAUTH_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(joining, "this_person", always(person(home)))
    manage_services_by(monkeypatch, None)
    return home


def always(answer: object) -> Callable[..., object]:
    """A function that answers this, whatever it is asked."""

    def answers(*_: object) -> object:
        return answer

    return answers


def person(home: Path, *, uid: int = 1000, by_root: bool = False) -> Person:
    return Person("pi", uid, uid, home, by_root=by_root)


def manage_services_by(monkeypatch: pytest.MonkeyPatch, init: Init | None) -> None:
    monkeypatch.setattr(joining, "init_system", always(init))


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


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


# --- the Claude CLI -----------------------------------------------------------------------------------------------------


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


# --- the service --------------------------------------------------------------------------------------------------------


def test_the_service_of_a_user_is_written_when_it_is_wanted(
    runtime: FakeRuntime, bloom: Bloom, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime.on("POST", "/keys/join", joined())
    manage_services_by(monkeypatch, "systemd")
    unit = home / ".config" / "systemd" / "user" / "bloom-worker.service"
    refused = bloom("worker", "join", runtime.url, TOKEN, "--no-service")
    assert not unit.exists() and "start    bloom worker" in refused.stdout
    not_asked = bloom("worker", "join", runtime.url, TOKEN)  # nobody is there to be asked
    assert not unit.exists() and "`--yes` writes one" in not_asked.stdout
    done = bloom("worker", "join", runtime.url, TOKEN, "--yes")
    assert unit.exists() and str(unit) in done.stdout
    for command in (
        "systemctl --user daemon-reload",
        "systemctl --user enable --now bloom-worker",
        "loginctl enable-linger",
    ):
        assert command in done.stdout
    assert "sudo" not in done.stdout + unit.read_text()


@pytest.mark.parametrize(("answer", "written"), [(True, True), (False, False)])
def test_at_a_terminal_the_service_is_asked_about(
    runtime: FakeRuntime, bloom: Bloom, home: Path, monkeypatch: pytest.MonkeyPatch, answer: bool, written: bool
) -> None:
    runtime.on("POST", "/keys/join", joined())
    manage_services_by(monkeypatch, "systemd")
    asked: list[str] = []

    def confirm(question: str, **_: Any) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr("typer.confirm", confirm)
    monkeypatch.setattr(joining, "is_terminal", always(True))
    assert bloom("worker", "join", runtime.url, TOKEN).exit_code == 0
    unit = home / ".config" / "systemd" / "user" / "bloom-worker.service"
    assert unit.exists() is written
    assert len(asked) == 1 and str(unit) in asked[0]


def planned(who: Person, init: Init, directory: Path, environment: dict[str, str] | None = None) -> ServicePlan:
    plan = plan_service(
        who, directory, "pi4", init, {"PATH": "/opt/100% $HOME:/usr/bin:relative", **(environment or {})}
    )
    assert isinstance(plan, ServicePlan), plan
    return plan


def test_a_unit_quotes_what_systemd_would_expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", '/opt/a "b" $c %d/python')
    directory = tmp_path / "a 100% worker"
    lines = planned(person(tmp_path), "systemd", directory).text.splitlines()
    assert 'ExecStart="/opt/a \\"b\\" $$c %%d/python" "-P" "-m" "bloom" "worker"' in lines
    assert f'Environment="BLOOM_WORKER_DIR={directory}"'.replace("100%", "100%%") in lines
    assert 'Environment="PATH=/opt/100%% $HOME:/usr/bin"' in lines
    assert "User=pi" not in lines and "WantedBy=default.target" in lines and "NoNewPrivileges=yes" in lines


def test_roots_unit_runs_as_the_plain_user(tmp_path: Path) -> None:
    plan = planned(person(tmp_path, by_root=True), "systemd", tmp_path / ".bloom-worker")
    assert plan.path == Path("/etc/systemd/system/bloom-worker.service") and not plan.as_person
    assert "User=pi" in plan.text.splitlines() and "WantedBy=multi-user.target" in plan.text
    assert f"{tmp_path}/.local/bin" in plan.text


def test_an_openrc_script_is_shell_and_runs_as_the_plain_user(tmp_path: Path) -> None:
    plan = planned(person(tmp_path, by_root=True), "openrc", tmp_path / "it's a worker")
    assert plan.path == Path("/etc/init.d/bloom-worker-pi4") and plan.mode == 0o755
    assert "command_user=pi\n" in plan.text and "supervisor=supervise-daemon\n" in plan.text
    script = tmp_path / "script"
    show = 'printf "%s|" "$BLOOM_WORKER_DIR" "$PATH" "$command_args" "$HOME"'
    script.write_text(plan.text + show)
    said = subprocess.run(["/bin/sh", script], capture_output=True, text=True, check=True, timeout=10).stdout
    path = f"{tmp_path}/.local/bin:/opt/100% $HOME:/usr/bin"
    assert said.split("|") == [f"{tmp_path}/it's a worker", path, "-P -m bloom worker", str(tmp_path), ""]


def test_without_root_an_openrc_script_is_laid_ready_for_root(tmp_path: Path) -> None:
    plan = planned(person(tmp_path), "openrc", tmp_path / ".bloom-worker")
    assert plan.path == tmp_path / ".bloom-worker" / "bloom-worker.openrc" and plan.as_person
    assert all(command.startswith("as root: ") for command in plan.commands)


def test_no_service_runs_as_root_or_without_a_manager(tmp_path: Path) -> None:
    as_root = plan_service(person(tmp_path, uid=0, by_root=True), tmp_path, "w", "systemd", {})
    assert isinstance(as_root, NoService) and "--user" in as_root.reason
    assert isinstance(plan_service(person(tmp_path), tmp_path, "w", None, {}), NoService)
    control = plan_service(person(tmp_path), tmp_path / "a\nb", "w", "systemd", {})
    assert isinstance(control, NoService) and "control characters" in control.reason


def test_a_file_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    plan = planned(person(tmp_path), "systemd", tmp_path / ".bloom-worker")
    write_service(plan)
    write_service(plan)
    assert plan.path.read_text() == plan.text and mode_of(plan.path) == 0o644
    plan.path.write_text("[Service]\n")
    with pytest.raises(ConfigurationError, match="was not written by this command"):
        write_service(plan)
    assert plan.path.read_text() == "[Service]\n"


def test_only_root_joins_for_another_user() -> None:
    with pytest.raises(ConfigurationError, match="no user"):
        this_person("nobody-of-that-name")
    own = this_person(None)
    assert own.uid == os.geteuid() and own.home == Path.home()
    if own.uid != 0:
        with pytest.raises(ConfigurationError, match="for root"):
            this_person("root")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_a_link_in_roots_way_leads_no_further_than_its_owner_may_go() -> None:
    nobody = this_person("nobody")
    home = Path(tempfile.mkdtemp(prefix="bloom-join-"))
    victim = Path(tempfile.mkstemp(prefix="bloom-join-")[1])
    try:
        victim.write_text("root's own")
        os.chown(home, nobody.uid, nobody.gid)
        (home / "key.new").symlink_to(victim)
        with pytest.raises(PermissionError), acting_as(nobody):
            store_key(home, KEY)
        assert victim.read_text() == "root's own"
        (home / "key.new").unlink()
        with acting_as(nobody):
            store_key(home, KEY)
        assert (home / "key").stat().st_uid == nobody.uid and os.geteuid() == 0
    finally:
        shutil.rmtree(home)
        victim.unlink()


# --- afterwards ---------------------------------------------------------------------------------------------------------


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
