"""Membridge as `bloom up` runs it: its key, its socket and its process."""

import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from bloom.base.errors import ConfigurationError
from bloom.cli.listen_socket import LOOPBACK, listen_from
from bloom.cli.supervisor import Child
from bloom.db.data_dir import write_atomically
from bloom.membridge.settings import MembridgeSettings

KEY_FILE = "membridge.key"


def admin_key(settings: MembridgeSettings) -> str:
    """`MEMBRIDGE_ADMIN_KEY`, else the key in the data directory, which is made (mode 600) when there is none.

    Raises ConfigurationError for a key file that is empty or not text.
    """
    if settings.membridge_admin_key is not None:
        return settings.membridge_admin_key.get_secret_value()
    path = settings.data_dir / KEY_FILE
    try:
        key = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        # Of the form that log lines are cleaned of.
        key = f"bloom_membridge_{secrets.token_urlsafe(32)}"
        write_atomically(path, f"{key}\n")
        return key
    except UnicodeDecodeError:
        key = ""
    if not key:
        raise ConfigurationError(f"{path} must hold the key of Membridge; remove it, and a new one is made")
    path.chmod(0o600)
    return key


def open_membridge_socket(settings: MembridgeSettings) -> socket.socket:
    """A socket on `MEMBRIDGE_PORT`, else on the first free port from 8000 up. Raises as `open_listen_socket` does."""
    return listen_from(
        settings.membridge_host or LOOPBACK,
        settings.listen_port,
        asked_for=settings.membridge_port is not None,
        name="MEMBRIDGE_PORT",
        host_name="MEMBRIDGE_HOST or BLOOM_HOST",
    )


def membridge_child(
    argv: Sequence[str], settings: MembridgeSettings, *, database_url: str, key: str, log: Path, pass_fds: Sequence[int]
) -> Child:
    """The process of the control plane, not started; it gets no secret that is the runtime's alone."""
    left_out = ("RUNTIME_API_KEY", "RUNTIME_API_KEY_PREVIOUS", "BLOOM_SECRET_KEY", "BLOOM_METRICS_KEY")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {
        "DATABASE_URL": database_url,
        "MEMBRIDGE_ADMIN_KEY": key,
        "BLOOM_DATA_DIR": str(settings.data_dir),
    }
    return Child("Membridge", argv, environment=environment, log=log, pass_fds=pass_fds)
