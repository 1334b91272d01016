"""The machine, its files and its services, as `bloom doctor` sees them."""

import os
import platform
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from bloom import __version__
from bloom.base.findings import Finding
from bloom.base.settings import ServerSettings
from bloom.cli.env_file import FROM_FILE
from bloom.cli.machine import init_system
from bloom.cli.service_files import INIT_SCRIPTS, SYSTEM_UNITS

SERVICE_ENV_FILE = Path("/etc/bloom-runtime.env")
WORKER = "bloom-worker"
SERVICES = ("bloom-runtime", "membridge-server", WORKER)

_OLDEST_PYTHON = (3, 11)
_ASK_SEC = 5
_LEAST_FREE_MB, _FEW_FREE_MB = 200, 1024


def version() -> Iterator[Finding]:
    """The versions of BLOOM and of Python."""
    text = f"bloom {__version__}, Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < _OLDEST_PYTHON:
        yield Finding("version", "problem", text, "install Python 3.11 or newer")
    else:
        yield Finding("version", "ok", text)


def env_files() -> Iterator[Finding]:
    """Whether files that hold the settings of a service are for its owner alone."""
    for path in dict.fromkeys((SERVICE_ENV_FILE, *(Path(name) for name in FROM_FILE.values()))):
        if path.exists():
            yield _private_file("environment file", path)
            if str(path) not in FROM_FILE.values() and os.access(path, os.R_OK):
                text = f"{path} was not looked into: it is what the services read"
                yield Finding("environment file", "warning", text, f"bloom --env-file {path} doctor")


def data_files(settings: ServerSettings) -> Iterator[Finding]:
    """Whether the data directory and the key in it are for their owner alone."""
    directory = settings.data_dir
    if not directory.exists():
        yield Finding("data directory", "ok", f"{directory} is made at the first start")
        return
    mode = stat.S_IMODE(directory.stat().st_mode)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        text = f"{directory} cannot be used by this user"
        yield Finding("data directory", "problem", text, "run as its owner, or set BLOOM_DATA_DIR")
    elif mode & 0o022:
        yield Finding("data directory", "problem", f"others may write in {directory}", f"chmod go-w {directory}")
    else:
        yield Finding("data directory", "ok", f"{directory}, mode {mode:o}")
    for name in ("secret.key", "membridge.key"):
        if (directory / name).exists():
            yield _private_file(name, directory / name)


def _private_file(name: str, path: Path) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        fix = f"chmod 600 {path}; if somebody may have read it, change the secrets in it"
        return Finding(name, "problem", f"others may use {path} (mode {mode:o})", fix)
    return Finding(name, "ok", f"{path}, mode {mode:o}")


def disk(directory: Path) -> Iterator[Finding]:
    """Whether there is room where the data is."""
    place = next(each for each in (directory, *directory.parents) if each.exists())
    free_mb = shutil.disk_usage(place).free >> 20
    text = f"{free_mb} MiB are free at {place}"
    if free_mb < _LEAST_FREE_MB:
        yield Finding("disk", "problem", text, "free disk space: a full disk stops PostgreSQL and the worker's spool")
    else:
        yield Finding("disk", "warning" if free_mb < _FEW_FREE_MB else "ok", text, "free disk space")


async def time_and_zone() -> list[Finding]:
    """The time zone, and whether something keeps the clock right, as far as systemd knows."""
    text = f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}"
    synchronized = _say(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    if synchronized == "no":
        return [Finding("clock", "warning", f"{text}; nothing keeps the clock right", "timedatectl set-ntp true")]
    if time.gmtime().tm_year < 2025:
        return [Finding("clock", "problem", f"{text} cannot be", "set the clock: TLS fails with a wrong one")]
    return [Finding("clock", "ok", text)]


def services() -> Iterator[Finding]:
    """The services that are installed, each with its state."""
    init = init_system()
    user_units = Path.home() / ".config" / "systemd" / "user"
    for name in SERVICES:
        # What a setting that is wrong has to say is there before the log is (deploy/).
        errors = f"/var/log/{name}{'' if name == WORKER else '-error'}.log"
        if (SYSTEM_UNITS / f"{name}.service").exists():
            yield _service(
                name,
                init == "systemd",
                ["systemctl"],
                "systemctl",
                f"journalctl -u {name}" if name == WORKER else errors,
            )
        if (user_units / f"{name}.service").exists():
            yield _service(
                f"{name} (yours)",
                init == "systemd",
                ["systemctl", "--user"],
                "systemctl --user",
                f"journalctl --user -u {name}",
            )
        if (INIT_SCRIPTS / name).exists():
            is_up = init == "openrc" and _say(["rc-service", name, "status"]) is not None
            fix = f"rc-service {name} start; look at {errors}"
            yield Finding(name, "ok" if is_up else "warning", "runs" if is_up else "does not run", fix)


def _service(name: str, can_ask: bool, command: Sequence[str], shown: str, logs: str) -> Finding:
    unit = name.removesuffix(" (yours)")
    state = _say([*command, "is-active", unit], fails=True) if can_ask else None
    match state:
        case "active":
            return Finding(name, "ok", "runs")
        case "failed":
            return Finding(name, "problem", "has failed", f"{logs} tells why; {shown} restart {unit}")
        case None | "":
            return Finding(name, "warning", "is installed, and systemd does not answer here", "")
        case _:
            return Finding(name, "warning", f"is {state}", f"{shown} enable --now {unit}")


def _say(command: list[str], *, fails: bool = False) -> str | None:
    """What a program answers; None when it is not here, or fails and that is not an answer."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_ASK_SEC, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if fails or ended.returncode == 0 else None
