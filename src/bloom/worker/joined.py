"""What `bloom worker join` leaves in the worker directory: the worker's key, and a config file to begin with."""

import json
import os
import stat
from pathlib import Path

from bloom.base.errors import ConfigurationError
from bloom.worker.config import CONFIG_FILE
from bloom.worker.durable import write_atomically

KEY_FILE = "key"
"""Its name in the worker directory: one line, mode 600."""

_CONFIG = """\
# The worker of this machine, as `bloom worker join` wrote it. It is yours: joining again leaves it as it is.
# `bloom worker` reads it at its start; options on the command line go before it.

# The runtime, and the name under which it knows this worker. The key beside this file is for both, and for nothing else.
runtime = {runtime}
name = {name}

# How many tasks run at once, 1 to 32.
slots = {slots}

# "claude" (the Claude CLI) or "command" (any program). By itself: claude where the CLI is found.
#executor = "claude"

# Seconds that a run has to end by itself before it is killed.
#stop_grace_sec = 3.0

# Environment variables that runs get besides the usual ones; one "*" in a name stands for anything.
#pass_env = ["AWS_*"]

#[claude]
#path = "claude"
#args = []

# The program of the command executor; it reads the prompt from stdin.
#[command]
#argv = ["my-agent", "--quiet"]

# How the tasks of an agent (`agent_slug`) are run; what [agents.default] says holds for all of them.
#[agents.default]
#model = "sonnet"
#permission_mode = "acceptEdits"
#allowed_tools = ["Read", "Grep"]
#disallowed_tools = ["WebFetch"]
#append_system_prompt = "Answer in one paragraph."
#working_directory = "~/work"
#max_turns = 50
# A login by an API key can stand here (nobody else may read this file); a service does not see that of your shell.
#env = {{ ANTHROPIC_API_KEY = "..." }}
"""


def read_key(directory: Path) -> str | None:
    """The key of the worker directory, None when there is none.

    Raises ConfigurationError when it cannot be read, or when others can.
    """
    try:
        file = os.open(directory / KEY_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"the key in the worker directory cannot be read ({error.strerror})") from None
    try:
        if stat.S_IMODE(os.fstat(file).st_mode) & 0o077:
            raise ConfigurationError(
                f"others may read the file {KEY_FILE!r} in the worker directory: chmod 600 it, and if anybody did, have "
                "the key revoked and join again"
            )
        return os.read(file, 4096).decode(errors="replace").strip() or None
    finally:
        os.close(file)


def store_key(directory: Path, key: str) -> Path:
    """Put `key` into the worker directory, in one step and on the disk; returns where. Raises OSError."""
    path = directory / KEY_FILE
    write_atomically(path, f"{key}\n", sync=True)
    return path


def write_config(directory: Path, *, runtime: str, name: str, slots: int) -> Path:
    """Write the config file to begin with; returns where. Raises OSError."""
    path = directory / CONFIG_FILE
    text = _CONFIG.format(runtime=_toml_text(runtime), name=_toml_text(name), slots=slots)
    write_atomically(path, text, sync=True)
    return path


def _toml_text(text: str) -> str:
    # For printable text a JSON string is a TOML basic string (toml.io, "String").
    return json.dumps(text, ensure_ascii=False)
