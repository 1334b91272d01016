"""The file by which systemd or OpenRC runs the worker of this machine, as a plain user and without a sudo rule."""

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bloom.base.errors import ConfigurationError
from bloom.cli.machine import Init, Person
from bloom.worker.options import WORKER_DIR_NAME, WORKER_DIR_VARIABLE

MARK = "# Written by `bloom worker join`"
"""The beginning of a line by which a file of ours is known: only such a one is replaced."""

SYSTEM_UNITS = Path("/etc/systemd/system")
INIT_SCRIPTS = Path("/etc/init.d")

STOP_SEC = 60
"""Longer than the daemon's grace for its runs, and what it then takes to hand them back."""

_PLAIN = re.compile(r"[A-Za-z0-9_@%+:,./-]+")


@dataclass(frozen=True)
class NoService:
    """Why there is nothing to install."""

    reason: str


@dataclass(frozen=True)
class ServicePlan:
    """A file to write, by `person` or by root, and the commands that put it to use."""

    manager: str
    path: Path
    text: str
    mode: int
    commands: Sequence[str]
    as_person: bool


def plan_service(
    person: Person, directory: Path, worker_name: str, init: Init | None, environment: Mapping[str, str]
) -> ServicePlan | NoService:
    """How the worker of `directory` can be run as a service here."""
    if init is None:
        return NoService("neither systemd nor OpenRC runs here")
    if person.uid == 0:
        return NoService("a worker's service does not run as root: join with --user USER")
    name = "bloom-worker"
    if directory != person.home / WORKER_DIR_NAME:
        name += "-" + (re.sub(r"[^a-z0-9]+", "-", worker_name.lower()).strip("-")[:40] or "other")
    try:
        if init == "systemd":
            return _systemd(name, person, directory, environment)
        return _openrc(name, person, directory, environment)
    except ValueError as error:
        return NoService(str(error))


def write_service(plan: ServicePlan) -> None:
    """Write the file of `plan`. Raises OSError, or ConfigurationError for a file of that name that is not ours."""
    plan.path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(plan.path) and MARK not in plan.path.read_text(encoding="utf-8", errors="replace"):
        raise ConfigurationError(
            f"{plan.path} is there already and was not written by this command; it is left as it is"
        )
    new = plan.path.with_name(f".{plan.path.name}.new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, plan.mode)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        os.fchmod(file, plan.mode)
        stream.write(plan.text)
    new.replace(plan.path)


def _systemd(name: str, person: Person, directory: Path, environment: Mapping[str, str]) -> ServicePlan:
    system = person.by_root
    lines = [
        f"{MARK}: the BLOOM worker of {_unit_comment(directory)}. Remove this file to be rid of it.",
        "[Unit]",
        "Description=BLOOM worker",
        *(["Wants=network-online.target", "After=network-online.target"] if system else []),
        "",
        "[Service]",
        f"ExecStart={' '.join(_unit_word(word).replace('$', '$$') for word in _command())}",
        *([f"User={person.name}"] if system else []),
        "WorkingDirectory=~",
        f"Environment={_unit_word(f'{WORKER_DIR_VARIABLE}={directory}')}",
        f"Environment={_unit_word('PATH=' + _search_path(person, environment))}",
        "Restart=always",
        "RestartSec=10",
        "# Exit code 2 says that its settings are wrong: trying again does not help.",
        "RestartPreventExitStatus=2",
        "# The worker ends its runs itself; what is left after that is killed.",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_SEC}",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if system else 'default.target'}",
        "",
    ]
    text = "\n".join(lines)
    if system:
        commands = ["systemctl daemon-reload", f"systemctl enable --now {name}"]
        return ServicePlan("systemd", SYSTEM_UNITS / f"{name}.service", text, 0o644, commands, as_person=False)
    config_home = environment.get("XDG_CONFIG_HOME")
    base = Path(config_home) if config_home and Path(config_home).is_absolute() else person.home / ".config"
    commands = [
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {name}",
        "loginctl enable-linger    (so that it runs without you being logged in)",
    ]
    return ServicePlan("systemd", base / "systemd" / "user" / f"{name}.service", text, 0o644, commands, as_person=True)


def _openrc(name: str, person: Person, directory: Path, environment: Mapping[str, str]) -> ServicePlan:
    command = _command()
    for word in (*command, person.name):
        if not _PLAIN.fullmatch(word):
            raise ValueError("OpenRC cannot run a program whose path holds such characters")
    # PATH is the daemon's alone: the script itself needs that of openrc-run. (OpenRC evaluates the arguments once more.)
    arguments = f"--no-new-privs --env {shlex.quote('PATH=' + _search_path(person, environment))}"
    text = f"""\
#!/sbin/openrc-run
{MARK}: the BLOOM worker of {_unit_comment(directory)}. Remove this file to be rid of it.

name="BLOOM worker"
supervisor=supervise-daemon
command={command[0]}
command_args="{" ".join(command[1:])}"
command_user={person.name}
respawn_delay=10
respawn_max=0
# The worker ends its runs itself, and is killed only after that.
retry=SIGTERM/{STOP_SEC}/SIGKILL/5
umask=0077
output_log=/var/log/{name}.log
error_log=/var/log/{name}.log
supervise_daemon_args={shlex.quote(arguments)}

export HOME={shlex.quote(str(person.home))}
export {WORKER_DIR_VARIABLE}={shlex.quote(str(directory))}

depend() {{
    need net
    after firewall
}}

start_pre() {{
    checkpath --file --owner {person.name} --mode 0600 /var/log/{name}.log
}}
"""
    enable = [f"rc-update add {name} default", f"rc-service {name} start"]
    if person.by_root:
        return ServicePlan("OpenRC", INIT_SCRIPTS / name, text, 0o755, enable, as_person=False)
    # Only root may install it, which is for root to decide: the file is laid ready.
    path = directory / f"{name}.openrc"
    install = f"install -m 755 {shlex.quote(str(path))} {INIT_SCRIPTS / name}"
    commands = [f"as root: {command}" for command in (install, *enable)]
    return ServicePlan("OpenRC", path, text, 0o644, commands, as_person=True)


def _command() -> list[str]:
    # -P: a directory `bloom` in the working directory is not this program.
    return [sys.executable, "-P", "-m", "bloom", "worker"]


def _search_path(person: Person, environment: Mapping[str, str]) -> str:
    """PATH as it is here, so that the Claude CLI and what it calls are found, with absolute directories only."""
    parts = [part for part in environment.get("PATH", os.defpath).split(os.pathsep) if Path(part).is_absolute()]
    if person.is_root_for_another:
        parts.insert(0, f"{person.home}/.local/bin")
    return os.pathsep.join(dict.fromkeys(parts))


def _unit_word(text: str) -> str:
    """`text` as one word of a unit file (systemd.syntax(7), "Quoting"; systemd.unit(5), "Specifiers")."""
    _unit_comment(text)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _unit_comment(text: Path | str) -> str:
    if not str(text).isprintable():
        raise ValueError("a path or PATH holds control characters")
    return str(text)
