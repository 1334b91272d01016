"""An agent with a URL, as Membridge calls it: a small HTTP server that answers as it is told."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class CalledAgent:
    """What it was sent, and what it answers: `status`, `headers` and `answer` (bytes, or an object as JSON)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], Any]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.answer: Any = {"ok": True, "detail": "pushed", "stdout": "out", "stderr": "", "returncode": 0}
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.url = ""

    @contextmanager
    def serving(self) -> Generator["CalledAgent"]:
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                agent.calls.append((self.path, {k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
                assert agent.may_answer.wait(20)
                content = agent.answer if isinstance(agent.answer, bytes) else json.dumps(agent.answer).encode()
                self.send_response(agent.status)
                for name, value in agent.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.may_answer.set()
                server.shutdown()
                thread.join(5)
