"""Two PostgreSQL nodes with synchronous replication under Patroni, and one etcd: Debian's programs, on loopback."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.blobs.blob_servers import free_port
from tests.soak.fleet import Program, wait_until

PACKAGES = ("etcd-server", "patroni", "postgresql", "libfaketime", "nginx-light")
TTL_SEC = 5
PASSWORD = "only on loopback"


def missing() -> list[str]:
    """The programs that are not there."""
    wanted = {"etcd": "etcd", "patroni": "patroni", "nginx": "/usr/sbin/nginx"}
    found = [name for name, program in wanted.items() if shutil.which(program) is None]
    return found if _postgres_bin() is not None else [*found, "postgresql"]


def _postgres_bin() -> Path | None:
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda place: int(place.parts[4]))
    return places[-1].parent if places else None


class Node:
    """One Patroni, and the PostgreSQL that it starts."""

    def __init__(self, name: str, place: Path, account: Sequence[str], config: dict[str, Any]) -> None:
        self.name = name
        self.data = place / "data"
        self.rest = f"http://{config['restapi']['listen']}"
        file = place / "patroni.yml"
        file.write_text(json.dumps(config))
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(place)}
        self.patroni = Program(name, [*account, "patroni", str(file)], environment, place / "patroni.log")

    @property
    def postmaster(self) -> psutil.Process | None:
        """Its PostgreSQL's first process, while it lives."""
        with suppress(OSError, ValueError, IndexError, psutil.Error):
            process = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            return process if str(self.data) in " ".join(process.cmdline()) else None
        return None

    def says(self) -> dict[str, Any]:
        """What Patroni tells of it; nothing while it does not answer."""
        with suppress(httpx.HTTPError, ValueError):
            return httpx.get(f"{self.rest}/patroni", timeout=2, trust_env=False).json()
        return {}

    def kill_postgres(self) -> None:
        """`kill -9` of PostgreSQL's first process; the others end themselves."""
        if (postmaster := self.postmaster) is not None:
            postmaster.kill()

    def kill(self) -> None:
        """`kill -9` of all that the node is, Patroni first, so that it tells nobody."""
        postmaster = self.postmaster
        below = [] if postmaster is None else [postmaster, *postmaster.children(recursive=True)]
        self.patroni.end(signal.SIGKILL)
        for process in below:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(below, 10)


class Cluster:
    """What a Fleet takes for its PostgreSQL. Use `start` and `stop`."""

    def __init__(self, directory: Path) -> None:
        found = _postgres_bin()
        assert found is not None
        directory.mkdir(parents=True, exist_ok=True)
        self._account: tuple[str, ...] = ()
        if os.geteuid() == 0:
            # PostgreSQL refuses root; in a user namespace it is somebody else to itself, and its files stay ours.
            self._account = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
        client, peer = free_port(), free_port()
        self._client = f"http://127.0.0.1:{client}"
        etcd = directory / "etcd"
        etcd.mkdir()
        argv = ["etcd", "--name", "one", "--data-dir", str(etcd / "data"),
                "--listen-client-urls", self._client, "--advertise-client-urls", self._client,
                "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-cluster", f"one=http://127.0.0.1:{peer}"]  # fmt: skip
        self._etcd = Program("etcd", argv, {}, etcd / "etcd.log")
        self._ports = [free_port() for _ in range(2)]
        self.nodes = [self._node(directory, n, client, found) for n in range(2)]
        servers = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        self.url = (
            f"postgresql://bloom:{PASSWORD.replace(' ', '%20')}@{servers}/postgres?target_session_attrs=read-write"
        )

    def _node(self, directory: Path, number: int, etcd: int, programs: Path) -> Node:
        place = directory / f"node{number}"
        place.mkdir(mode=0o700)
        login = {"username": "bloom", "password": PASSWORD}
        config: dict[str, Any] = {
            "scope": "bloom",
            "name": f"node{number}",
            "restapi": {"listen": f"127.0.0.1:{free_port()}"},
            "etcd3": {"host": f"127.0.0.1:{etcd}"},
            "bootstrap": {
                "dcs": {
                    "ttl": TTL_SEC,
                    "loop_wait": 1,
                    "retry_timeout": 2,
                    "synchronous_mode": True,
                    "maximum_lag_on_failover": 0,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"max_connections": 100, "wal_log_hints": "on"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, "no-locale", "data-checksums"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self._ports[number]}",
                "connect_address": f"127.0.0.1:{self._ports[number]}",
                "data_dir": str(place / "data"),
                "bin_dir": str(programs),
                "pgpass": str(place / "pgpass"),
                "authentication": {"superuser": login, "replication": login, "rewind": login},
                "parameters": {"unix_socket_directories": "", "shared_buffers": "64MB"},
                "pg_hba": [
                    "host replication all 127.0.0.1/32 scram-sha-256",
                    "host all all 127.0.0.1/32 scram-sha-256",
                ],
            },
        }
        return Node(f"node{number}", place, self._account, config)

    def start(self, *, timeout_sec: float = 90) -> str:
        """Start whatever does not run and wait until one leads and the other follows in step; the URL of both."""
        self._etcd.start()
        wait_until(self._etcd_answers, "etcd", within_sec=timeout_sec)
        for node in self.nodes:
            node.patroni.start()
        wait_until(lambda: self.is_in_step, "a primary and its synchronous standby", within_sec=timeout_sec)
        return self.url

    def _etcd_answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self._client}/health", timeout=2, trust_env=False).json().get("health") == "true"
        return False

    @property
    def is_in_step(self) -> bool:
        """Whether one node leads, and the other is its synchronous standby."""
        said = [node.says() for node in self.nodes]
        running = all(one.get("state") == "running" for one in said)
        return running and {one.get("role") for one in said} == {"master", "replica"} and any(
            one.get("sync_standby") for one in said
        )  # fmt: skip

    @property
    def primary(self) -> Node:
        """The node that leads. Raises StopIteration when none does."""
        return next(node for node in self.nodes if node.says().get("role") == "master")

    def stop(self) -> None:
        """End all of it."""
        for node in self.nodes:
            node.kill()
        self._etcd.end()
