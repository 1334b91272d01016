"""The worker of this machine, as `bloom doctor` sees it."""

import os

from bloom.base.findings import Finding
from bloom.cli.claude_login import describe_claude
from bloom.cli.machine import this_person
from bloom.worker.config import CONFIG_FILE, load_worker_config
from bloom.worker.joined import KEY_FILE, read_key
from bloom.worker.options import worker_dir


async def worker() -> list[Finding]:
    """Its config file, its key, and the Claude CLI. Raises ConfigurationError for a bad file, OSError."""
    directory = worker_dir()
    if not directory.exists():
        return [Finding("worker", "ok", f"none is set up here ({directory} does not exist)")]
    config = load_worker_config(directory / CONFIG_FILE)
    has_file, key = (directory / CONFIG_FILE).exists(), read_key(directory)
    text = f"{directory}: " + (f"{CONFIG_FILE} is sound" if has_file else f"no {CONFIG_FILE}, all defaults")
    found = [Finding("worker", "ok", text + (f", {KEY_FILE} is there" if key else ""))]
    lines = describe_claude(config, this_person(None), os.environ)
    is_sound = config.executor == "command" or (len(lines) > 1 and lines[1].startswith("login"))
    fix = "install the Claude CLI, run `claude` once and log in, or name another program in worker.toml"
    found.append(Finding("Claude CLI", "ok" if is_sound else "warning", "; ".join(lines), fix))
    if os.geteuid() == 0 and config.executor != "command":
        text = "this is root, as whom the Claude CLI refuses some permission modes"
        found.append(Finding("user", "warning", text, "run the worker as a plain user"))
    return found
