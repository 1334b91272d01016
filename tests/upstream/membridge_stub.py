"""A Membridge for tests, over real sockets: a good one, and whatever a bad one may do.

`behave(path, act)` puts another behaviour in the place of the good answers, of one path or (`"*"`) of all.
"""

import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Self

from tests.real_postgres import eventually

CID = "0123456789abcdef"
_WAIT_SEC = 20.0


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str | None:
        """The admin key that it showed."""
        return self.headers.get("x-membridge-admin")


Act = Callable[["Stub", socket.socket, Seen], None]


def says(value: Any, status: int = 200, **headers: str) -> Act:
    """Answer with JSON."""
    return raw(json.dumps(value).encode(), status, **{"Content-Type": "application/json", **headers})


def raw(body: bytes, status: int = 200, **headers: str) -> Act:
    """Answer with these bytes as the body."""

    def act(stub: "Stub", connection: socket.socket, seen: Seen) -> None:
        given = {"Date": formatdate(usegmt=True), "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        connection.sendall(f"HTTP/1.1 {status} X\r\n{head}Connection: close\r\n\r\n".encode() + body)

    return act


def redirects(to: str) -> Act:
    """Answer with a redirect."""
    return raw(b"", 307, Location=to)


def silent(stub: "Stub", connection: socket.socket, seen: Seen) -> None:
    """Answer nothing until the stub ends."""
    stub.ended.wait(_WAIT_SEC)


def drips(stub: "Stub", connection: socket.socket, seen: Seen) -> None:
    """Begin an answer and send a byte of it now and then, without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not stub.ended.wait(0.02):
        connection.sendall(b"1\r\n \r\n")


def endless(stub: "Stub", connection: socket.socket, seen: Seen) -> None:
    """Send as fast as it goes, without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not stub.ended.is_set():
        connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


def closes(stub: "Stub", connection: socket.socket, seen: Seen) -> None:
    """Close without a word."""


def closes_early(stub: "Stub", connection: socket.socket, seen: Seen) -> None:
    """Promise more than comes."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"status": "ok"')


def no_http(stub: "Stub", connection: socket.socket, seen: Seen) -> None:
    """Speak another protocol."""
    connection.sendall(b"220 mail.example ESMTP\r\n")


def echoes(status: int = 200) -> Act:
    """Tell back whatever came, in every place that an answer has: the reason, headers, cookies, names, texts, numbers."""

    def act(stub: "Stub", connection: socket.socket, seen: Seen) -> None:
        key = seen.key or ""
        value = {
            "error": f"the key {key} is bad",
            "detail": key,
            "code": "bad",
            "headers": dict(seen.headers),
            key: [key, f"<{key}>", {"nested": {key: f"x{key}y"}}],
            "agents": [{"name": f"agent-{key}", "url": f"http://x/{key}", "capabilities": {"labels": [key]}}],
            "status": key,
        }
        body = json.dumps(value, ensure_ascii=False).encode()
        head = f"Location: http://x/{key}\r\nSet-Cookie: k={key}\r\nX-Echo: {key}\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"HTTP/1.1 {status} {key}\r\n{head}Connection: close\r\n\r\n".encode() + body)

    return act


def agent(name: str, **fields: Any) -> dict[str, Any]:
    """One entry of the list of agents, seen now."""
    return {"name": name, "status": "online", "url": None, "registered_at": 1.0, **fields}


@dataclass
class Stub:
    """Listens on a free port of loopback while it is a context manager. `admin_key` None: it asks for none."""

    admin_key: str | None = None
    agents: list[Any] = field(default_factory=list[Any])
    seen: list[Seen] = field(default_factory=list[Seen])
    ended: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    """For a test to let an answer of its own go on."""
    acts: dict[str, Act] = field(default_factory=dict[str, Act])

    def behave(self, path: str, act: Act | None) -> None:
        """Let requests of `path` (`"*"`: all) meet `act`; None: as a good one again."""
        if act is None:
            self.acts.pop(path, None)
        else:
            self.acts[path] = act

    def paths(self) -> list[str]:
        """The paths that were asked for, oldest first."""
        return [seen.path for seen in self.seen]

    def wait_for(self, count: int) -> None:
        """Return when it was asked so often."""
        eventually(lambda: len(self.seen) >= count, what=f"{count} requests")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._thread = threading.Thread(target=self._serve, name="membridge-stub")
        self._serving: list[threading.Thread] = []
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        # Closing alone does not wake who accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._thread, *self._serving):
            thread.join(5)
            assert not thread.is_alive()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(5)
            thread = threading.Thread(target=self._answer, args=(connection,))
            self._serving.append(thread)
            thread.start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                seen = _read(connection)
                if seen is None:
                    return
                self.seen.append(seen)
                act = self.acts.get(seen.path) or self.acts.get("*") or self._good(seen)
                act(self, connection, seen)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                return  # the client left

    def _good(self, seen: Seen) -> Act:
        if seen.path == "/health":
            return says(
                {"status": "ok", "service": "membridge-control-plane", "version": "1", "projects": 1, "agents": 0}
            )
        if self.admin_key is not None and seen.key != self.admin_key:
            return says({"error": "no such key", "code": "unauthorized"}, 401)
        known = {
            "/agents": self.agents,
            "/projects": [{"name": "diary", "canonical_id": CID}],
            f"/projects/{CID}/nodes": [{"node_id": "pi"}],
            f"/projects/{CID}/leadership": {"canonical_id": CID, "preferred_primary": "pi"},
        }
        if seen.path == f"/projects/{CID}/leadership/select" and seen.method == "POST":
            asked = json.loads(seen.body)
            if asked["primary_node_id"] == "nobody":
                return says({"error": "There is no such node.", "code": "node_not_found"}, 404)
            return says({"ok": True, "canonical_id": CID, **asked, "detail": "done"})
        if seen.path in known:
            return says(known[seen.path])
        return says({"error": "There is no such project.", "code": "project_not_found"}, 404)


def _read(connection: socket.socket) -> Seen | None:
    content = b""
    while b"\r\n\r\n" not in content:
        piece = connection.recv(65536)
        if not piece:
            return None
        content += piece
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    method, path, _ = first.split(" ", 2)
    return Seen(method, path, headers, body)
