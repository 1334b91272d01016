"""A runtime of its own for a measurement: embedded PostgreSQL, `bloom serve` and, if wanted, `bloom worker`."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from bloom.db.embedded import EmbeddedPostgres

START_TIMEOUT_SEC = 30


class Stack:
    """Starts everything in a temporary directory and ends it by process id. Use as a context manager."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="bloom-bench-")
        self.directory = Path(self._directory.name)
        self._postgres = EmbeddedPostgres(self.directory / "data")
        self._children: list[subprocess.Popen[bytes]] = []
        self.url = ""

    def __enter__(self) -> Self:
        database_url = self._postgres.start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = {"DATABASE_URL": database_url, "BLOOM_RATE_LIMIT": "off", "BLOOM_LOG_LEVEL": "warning"}
        self._start(["serve", "--fd", str(listener.fileno())], environment, keep=(listener.fileno(),))
        self._wait_until_healthy()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for child in reversed(self._children):
            child.terminate()
            child.wait(timeout=15)
        self._postgres.stop()
        self._directory.cleanup()

    @property
    def server_id(self) -> int:
        """The process id of the runtime."""
        return self._children[0].pid

    def start_worker(self, name: str, *, slots: int, command: Sequence[str]) -> int:
        """A real worker daemon whose tasks run `command`; its process id."""
        home = self.directory / name
        home.mkdir()
        argv = ", ".join(f'"{word}"' for word in command)
        (home / "worker.toml").write_text(f'executor = "command"\n\n[command]\nargv = [{argv}]\n')
        arguments = ["worker", "--runtime", self.url, "--name", name, "--slots", str(slots), "--executor", "command"]
        self._start([*arguments, "--config", str(home / "worker.toml")], {"BLOOM_WORKER_DIR": str(home)})
        return self._children[-1].pid

    def _start(self, arguments: list[str], environment: dict[str, str], *, keep: tuple[int, ...] = ()) -> None:
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._children.append(
            subprocess.Popen(
                [sys.executable, "-m", "bloom", *arguments],
                env={**inherited, **environment},
                pass_fds=keep,
                stdin=subprocess.DEVNULL,
            )
        )

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SEC
        while True:
            try:
                if httpx.get(f"{self.url}/api/runtime/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError("the runtime did not come up")
            time.sleep(0.05)
