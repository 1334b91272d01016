"""A small real HTTP server that speaks the wire contract by script: each route answers what the test put there."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from typer.testing import Result

Bloom = Callable[..., Result]
"""Runs `bloom ARGS` in this process; a fixture of conftest."""

BOUND_SEC = 5
CREATED_MS = 1_760_000_000_000
TASK_ID = "0198a2b3-0000-7000-8000-000000000001"
LEASE_ID = "0198a2b3-0000-7000-8000-0000000000aa"
ARTIFACT_ID = "0198a2b3-0000-7000-8000-0000000000bb"


@dataclass
class Answer:
    """One answer. `body` is JSON unless it is bytes; `pieces` make a stream, cut off at its end unless `whole`.

    `drop`: close the connection without a word. `hold`: wait for this before closing a stream.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    pieces: Sequence[bytes] | None = None
    whole: bool = True
    drop: bool = False
    hold: threading.Event | None = None


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; `path` is below /api/runtime."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


class FakeRuntime:
    """Routes by `on`, what arrived by `seen`. An answer is used once, the last one of a route again and again."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._arrived = threading.Condition()
        self._answers: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        runtime = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                runtime.answer(self)

            do_POST = do_DELETE = do_GET  # noqa: N815 (names that http.server asks for)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(BOUND_SEC)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self._answers[method, path].extend(answers)

    def requests(self, method: str, path: str) -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]

    def wait_for(self, method: str, path: str) -> None:
        """Return once such a request has arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.requests(method, path), BOUND_SEC), f"no {method} {path}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        path = parts.path.removeprefix("/api/runtime")
        data = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        seen = Seen(handler.command, path, dict(parse_qsl(parts.query)), headers, json.loads(data) if data else None)
        with self._arrived:
            self.seen.append(seen)
            self._arrived.notify_all()
            known = self._answers[seen.method, path]
            missing = Answer({"error": "There is nothing under this id", "code": "not_found"}, 404)
            answer = (known.pop(0) if len(known) > 1 else known[0]) if known else missing
        _send(handler, answer)


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    handler.close_connection = True
    if answer.drop:
        return
    handler.send_response(answer.status)
    handler.send_header("Connection", "close")
    for name, value in answer.headers.items():
        handler.send_header(name, value)
    if answer.pieces is not None:
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in answer.pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if answer.hold is not None:
            answer.hold.wait(BOUND_SEC)
        handler.wfile.write(b"0\r\n\r\n" if answer.whole else b"")
        return
    raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    handler.send_header("Content-Type", "text/plain" if isinstance(answer.body, bytes) else "application/json")
    handler.send_header("Content-Length", str(len(raw)))
    handler.end_headers()
    handler.wfile.write(raw)


def task(status: str = "queued", **changed: Any) -> dict[str, Any]:
    """An LLMTask."""
    held = status not in ("queued", "cancelled")
    return {
        "id": TASK_ID,
        "context_id": "c1",
        "agent_slug": "default",
        "prompt": "say hello",
        "context_hints": [],
        "policy": {"timeout_sec": 120, "budget": 0},
        "desired_format": "text",
        "status": status,
        "created_at": CREATED_MS,
        "updated_at": CREATED_MS,
        "lease_id": LEASE_ID if held else None,
        "worker_id": "pi4" if held else None,
        "attempts": 1 if held else 0,
        "max_attempts": 3,
        "priority": 0,
        "run_at": None,
        "labels": [],
        "concurrency_key": None,
        "retry": {"base_sec": 2, "max_sec": 300},
        "cancel_requested": False,
        **changed,
    }


def result(output: str | None = "hello", status: str = "success", **changed: Any) -> dict[str, Any]:
    """An LLMResult."""
    return {
        "id": "0198a2b3-0000-7000-8000-0000000000cc",
        "task_id": TASK_ID,
        "worker_id": "pi4",
        "lease_id": LEASE_ID,
        "artifact_id": ARTIFACT_ID if status == "success" else None,
        "status": status,
        "output": output,
        "error_message": None if status == "success" else "the model refused",
        "code": None if status == "success" else "model_error",
        "metrics": {"duration_ms": 12_300, "tokens_used": 1234, "cost_usd": 0.0123},
        "completed_at": CREATED_MS,
        **changed,
    }


def worker(name: str = "pi4", **changed: Any) -> dict[str, Any]:
    """A WorkerNode."""
    return {
        "id": name,
        "node_id": name,
        "url": None,
        "status": "online",
        "capabilities": {"claude_cli": True, "max_concurrency": 2, "labels": ["arm"]},
        "last_heartbeat": CREATED_MS,
        "ip_addrs": [],
        "obs_count": None,
        "db_sha": None,
        "registered_at": CREATED_MS,
        "active_leases": 1,
        "agent_version": None,
        "os_info": None,
        "install_method": None,
        "draining": False,
        **changed,
    }


def event(number: int, kind: str, **data: Any) -> dict[str, Any]:
    """An EventOut."""
    return {
        "id": number,
        "task_id": TASK_ID,
        "lease_id": LEASE_ID,
        "seq": number,
        "at": CREATED_MS,
        "type": kind,
        "data": data,
    }


def run_message(number: int, kind: str, **data: Any) -> bytes:
    """The SSE message of one event."""
    return _message("run", event(number, kind, **data), number)


def task_message(status: str, **changed: Any) -> bytes:
    """The SSE message of a state change."""
    return _message("task", task(status, **changed))


def end_message(status: str, last: dict[str, Any] | None, **changed: Any) -> bytes:
    """The SSE message of the end."""
    return _message("end", {"task": task(status, **changed), "result": last})


def _message(name: str, data: Any, number: int | None = None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n".encode()
