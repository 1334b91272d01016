"""The service that `bloom worker join` offers: asked for, quoted, owned by a plain user, never in somebody's way."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import Bloom, FakeRuntime
from new_machine import KEY, TOKEN, always, joined, manage_services_by, mode_of, person

from bloom.base.errors import ConfigurationError
from bloom.cli import joining
from bloom.cli.machine import Init, Person, acting_as, this_person
from bloom.cli.service_files import NoService, ServicePlan, plan_service, write_service
from bloom.worker.joined import store_key


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
    show = 'printf "%s|" "$BLOOM_WORKER_DIR" "$command_args" "$HOME"; eval printf "%s," "$supervise_daemon_args"'
    script.write_text(plan.text + show)
    said = subprocess.run(["/bin/sh", script], capture_output=True, text=True, check=True, timeout=10).stdout
    arguments = f"--no-new-privs,--env,PATH={tmp_path}/.local/bin:/opt/100% $HOME:/usr/bin,"
    assert said.split("|") == [f"{tmp_path}/it's a worker", "-P -m bloom worker", str(tmp_path), arguments]


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
