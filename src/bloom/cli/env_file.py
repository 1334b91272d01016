"""`bloom --env-file FILE`: the environment of a service, for a command that is run by hand."""

import os
from pathlib import Path

from bloom.base.errors import ConfigurationError

FROM_FILE: dict[str, str] = {}
"""The variables that this process has from a file, each with the file's name."""


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a file of lines `NAME=value`, as systemd and Docker read them. Raises ConfigurationError."""
    from dotenv import dotenv_values

    try:
        with path.open(encoding="utf-8") as file:
            found = dotenv_values(stream=file, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"--env-file: {path} cannot be read ({reason})") from None
    return {name: value for name, value in found.items() if value is not None}


def use_env_file(path: Path) -> None:
    """Let this process have what `path` says, where its own environment does not say otherwise. Raises ConfigurationError."""
    for name, value in read_env_file(path).items():
        if not os.environ.get(name):
            os.environ[name] = value
            FROM_FILE[name] = str(path)
