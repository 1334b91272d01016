"""Nodes that sync a project, as real processes, and the worlds they do it in."""

import asyncio
import hashlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import claude_mem
from tests.real_membridge import Membridge

from bloom.blobs.interface import BlobStore
from bloom.sync.model import Keys, Version
from bloom.sync.remote import decode_version
from bloom.sync.settings import SyncSettings

PATIENCE_SEC = 20.0
SECRET = "the-secret-key-of-the-store"
FIRST = "a"
"""The node that leads at first."""

T = TypeVar("T")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Ended:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The document on stdout."""
        return json.loads(self.out)


class Zygote:
    """Starts commands in milliseconds; see zygote.py."""

    def __init__(self, directory: Path) -> None:
        self._output = directory
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer()["ready"]

    def close(self) -> None:
        cast("IO[str]", self._process.stdin).close()
        self._process.wait(PATIENCE_SEC)
        cast("IO[str]", self._process.stdout).close()

    def ask(self, **request: Any) -> dict[str, Any]:
        pipe = cast("IO[str]", self._process.stdin)
        pipe.write(json.dumps(request) + "\n")
        pipe.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        pipe = cast("IO[str]", self._process.stdout)
        if not select.select([pipe], [], [], PATIENCE_SEC)[0]:
            self._process.kill()
            raise AssertionError("the command neither ended nor stopped in time")
        return json.loads(pipe.readline())

    def run(self, argv: list[str], environment: dict[str, str], file_limit: int | None = None) -> "Ended | Stopped":
        """Start a command and wait for its end, or until it stops itself at a failpoint.

        `file_limit`: no file may grow beyond it, in bytes.
        """
        output = self._output / f"output-{next(_numbers)}"
        answer = self.ask(argv=argv, environment=environment, output=str(output), file_limit=file_limit)
        stopped = Stopped(self, answer["pid"], output)
        return stopped if answer["stopped"] else stopped.ended(answer)


@dataclass(frozen=True)
class Stopped:
    """A command that stands still at a failpoint."""

    zygote: Zygote
    pid: int
    output: Path

    def kill(self) -> None:
        """End it as a loss of power would."""
        assert self.zygote.ask(pid=self.pid, signal=signal.SIGKILL)["code"] == -signal.SIGKILL

    def resume(self, number: int = signal.SIGCONT) -> Ended:
        """Let it go on to its end."""
        if number != signal.SIGCONT:
            os.kill(self.pid, number)
        return self.ended(self.zygote.ask(pid=self.pid, signal=signal.SIGCONT))

    def ended(self, answer: dict[str, Any]) -> Ended:
        assert not answer["stopped"]
        texts = [self.output.with_name(f"{self.output.name}.{name}").read_text() for name in ("out", "err")]
        return Ended(answer["code"], *texts)


@dataclass(frozen=True)
class World:
    """A store, and what decides there: `plane`, or the bucket alone."""

    zygote: Zygote
    directory: Path
    environment: dict[str, str]
    plane: Membridge | None
    project: str

    @property
    def keys(self) -> Keys:
        return Keys(self.project)

    def node(self, name: str, **environment: str) -> "Node":
        """A node with a database path of its own, where nothing is yet."""
        return Node(self, name, self.directory / name / "claude-mem.db", environment)

    def ask(self, call: Callable[[BlobStore], Coroutine[Any, Any, T]]) -> T:
        """The answer of the store to `call`."""
        known = {
            name: value for name, value in self.environment.items() if name.startswith(("MINIO_", "BLOOM_SYNC_DIR"))
        }
        store = SyncSettings(**cast("dict[str, Any]", known)).open_store()
        return asyncio.run(call(store))

    def get(self, key: str) -> bytes:
        return self.ask(lambda store: store.get(key))

    def put(self, key: str, content: bytes) -> None:
        self.ask(lambda store: store.put(key, content))

    def exists(self, key: str) -> bool:
        return self.ask(lambda store: store.exists(key))

    def promote(self, name: str) -> None:
        """Make the node the primary of a new epoch, as an operator does."""
        if self.plane is not None:
            self.plane.heartbeat(name, self.project, asks=False)
            self.plane.select(name, project=self.project)
            return
        lease = json.loads(self.get(self.keys.lease))
        lease |= {"primary_node_id": name, "epoch": lease["epoch"] + 1, "issued_by": f"node:{name}"}
        self.put(self.keys.lease, json.dumps(lease).encode())

    def current(self) -> Version:
        """What is current, as the bucket tells it."""
        return decode_version(self.get(self.keys.pointer), "current.json")

    def plain_sessions(self) -> set[str]:
        """What a plain client finds, which must not refuse."""
        content = self.pull_plainly()
        assert content is not None
        path = self.directory / "plain.db"
        path.write_bytes(content)
        return claude_mem.sessions(path)

    def pull_plainly(self) -> bytes | None:
        """What a client gets that knows the plain objects alone; None where it refuses."""
        content = self.get(self.keys.plain)
        told = self.get(self.keys.plain_hash).decode()
        manifest = json.loads(self.get(self.keys.plain_manifest))
        actual = hashlib.sha256(content).hexdigest()
        if told != f"{actual}  claude-mem.db\n" or manifest["sha256"] != actual:
            return None
        return content


@dataclass(frozen=True)
class Node:
    """One machine with its database."""

    world: World
    name: str
    database: Path
    environment: dict[str, str]

    def start(
        self, *argv: str, at: str | None = None, file_limit: int | None = None, also: Mapping[str, str] | None = None
    ) -> "Ended | Stopped":
        """Run `bloom sync ARGV`; `at` is the failpoint to stop at."""
        failpoint = {} if at is None else {"BLOOM_SYNC_FAILPOINTS": "1", "BLOOM_SYNC_FAILPOINT": at}
        return self.world.zygote.run(
            ["sync", *argv],
            {
                "HOME": str(self.database.parent),
                "PATH": os.environ["PATH"],
                "BLOOM_SYNC_LEAVE_CLAUDE_MEM": "1",
                "CLAUDE_PROJECT_ID": self.world.project,
                "CLAUDE_MEM_DB": str(self.database),
                "MEMBRIDGE_NODE_ID": self.name,
                "PRIMARY_NODE_ID": FIRST,
                **self.world.environment,
                **self.environment,
                **failpoint,
                **(also or {}),
            },
            file_limit,
        )

    def run(self, *argv: str, code: int = 0, also: Mapping[str, str] | None = None, **environment: str) -> Ended:
        """Run a command to its end, which has to be `code`; with more variables, `also` or by name."""
        ended = self.start(*argv, also={**(also or {}), **environment})
        assert isinstance(ended, Ended)
        assert ended.code == code, ended
        assert SECRET not in ended.out + ended.err
        return ended

    def stop_at(self, step: str, *argv: str) -> Stopped:
        """Run a command until it stands at the failpoint `step`."""
        stopped = self.start(*argv, at=step)
        assert isinstance(stopped, Stopped), stopped
        return stopped

    def status(self) -> dict[str, Any]:
        return self.run("status", "--json").json

    def remember(self, session: str, **more: Any) -> None:
        """New rows in the local database, as claude-mem writes them."""
        self.database.parent.mkdir(exist_ok=True)
        claude_mem.remember(self.database, session, project=self.world.project, **more)

    @property
    def sessions(self) -> set[str]:
        return claude_mem.sessions(self.database)

    def is_whole(self) -> bool:
        """Whether the database is sound; fails with what is wrong."""
        claude_mem.check_whole(self.database)
        return True
