"""A stub of the Messages API for tests: real HTTP on loopback, answers chosen by the path of the base URL, no model.

`ANTHROPIC_BASE_URL` is `http://127.0.0.1:PORT/m/MODE`; a mode is a name and its arguments, divided by hyphens and
quoted for a URL (`AnthropicStub.url` does that):

    ok                        four words of text
    echo                      the last user message, as JSON
    say-TEXT                  TEXT
    long-CHARS                that many characters
    held                      one word, then waits for `AnthropicStub.release`, then the rest
    hang                      accepts the request and never answers
    bash-COMMAND              asks for the Bash tool once, then answers in text
    loop                      asks for the Bash tool for ever
    refusal                   that stop reason
    maxtok[-N]                that stop reason every time, or for the first N requests
    drop, end, sse-overloaded the stream is cut off, ends early, or holds an error event; unstreamed requests succeed
    drop-all, sse-overloaded-all    the same, and unstreamed requests fail (529)
    drop-late                 cut off after the text's own end, before the message's
    400 401 403 404 500 529 credit promptlong     that error
    429-SECONDS[-RESET]       rate limited with that `retry-after`; RESET (epoch seconds) as subscription accounts get it

Run as a program it serves for trials by hand: `python tests/stubs/anthropic.py PORT`.
"""

import contextlib
import json
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, cast
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

USAGE = {"input_tokens": 100, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 20, "output_tokens": 1}

ERRORS: Mapping[str, tuple[int, str, str]] = {
    "400": (400, "invalid_request_error", "bad request (stub)"),
    "401": (401, "authentication_error", "invalid x-api-key"),
    "403": (403, "permission_error", "not allowed"),
    "404": (404, "not_found_error", "model: unknown"),
    "500": (500, "api_error", "Internal server error"),
    "529": (529, "overloaded_error", "Overloaded"),
    "credit": (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
    "promptlong": (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
}


@dataclass(frozen=True)
class StubRequest:
    """One request for a message, as it came in."""

    mode: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The whole body as JSON, to look for words in."""
        return json.dumps(self.body, ensure_ascii=False)

    @property
    def streamed(self) -> bool:
        """Whether a stream of events was asked for."""
        return bool(self.body.get("stream"))


@dataclass
class _Answer:
    texts: Sequence[str] = ("Hello", " from", " the", " stub.")
    stop_reason: str = "end_turn"
    tool: tuple[str, Mapping[str, Any]] | None = None
    held: bool = False
    broken: str = ""
    id: str = field(default_factory=lambda: f"msg_{uuid4().hex[:20]}")
    tool_id: str = field(default_factory=lambda: f"toolu_{uuid4().hex[:20]}")

    def content(self) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = [{"type": "text", "text": "".join(self.texts)}]
        if self.tool:
            blocks.append({"type": "tool_use", "id": self.tool_id, "name": self.tool[0], "input": self.tool[1]})
        return blocks

    def usage(self) -> dict[str, int]:
        return {**USAGE, "output_tokens": max(1, sum(map(len, self.texts)) // 4)}

    def reason(self) -> str:
        return "tool_use" if self.tool else self.stop_reason


def _answer(mode: str, body: Mapping[str, Any], count: int) -> _Answer:
    name, _, rest = mode.partition("-")
    messages: list[dict[str, Any]] = body.get("messages", [])
    last: Any = messages[-1]["content"] if messages else ""
    blocks = cast(list[dict[str, Any]], last) if isinstance(last, list) else []
    answered = any(block["type"] == "tool_result" for block in blocks)
    if name in ("bash", "loop") and body.get("tools") and not (answered and name == "bash"):
        return _Answer(tool=("Bash", {"command": rest or "echo loop", "description": "stub"}))
    match name:
        case "drop" | "end" | "sse":
            return _Answer(texts=("part1 ", "part2 "), broken=mode)
        case "say":
            return _Answer(texts=(rest,))
        case "echo":
            return _Answer(texts=(json.dumps(last),))
        case "long":
            return _Answer(texts=["x" * 1000] * (int(rest) // 1000))
        case "held":
            return _Answer(held=True)
        case "refusal":
            return _Answer(stop_reason="refusal")
        case "maxtok" if not rest or count <= int(rest):
            return _Answer(stop_reason="max_tokens")
        case _:
            return _Answer()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: ClassVar["AnthropicStub"]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on stderr."""

    def _send_json(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {
            "content-type": "application/json",
            "content-length": str(len(data)),
            "request-id": f"req_{uuid4().hex[:20]}",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(data)

    def _send_error(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._send_json(status, {"type": "error", "error": {"type": kind, "message": message}}, headers)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self._send_error(404, "not_found_error", "stub: no such path")

    def do_POST(self) -> None:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        _, _, quoted, *rest = urlsplit(self.path).path.split("/")
        if rest[:2] != ["v1", "messages"]:
            return self._send_json(200, {})
        if rest[2:] == ["count_tokens"]:
            return self._send_json(200, {"input_tokens": 42})
        mode = unquote(quoted)
        self.stub.record(StubRequest(mode, {k.lower(): v for k, v in self.headers.items()}, body))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._reply(mode, body)
        return None

    def _reply(self, mode: str, body: Mapping[str, Any]) -> None:
        if mode in ERRORS:
            return self._send_error(*ERRORS[mode])
        if mode.startswith("429-"):
            _, seconds, *reset = mode.split("-")
            headers = {"retry-after": seconds}
            if reset:
                headers["anthropic-ratelimit-unified-status"] = "rejected"
                headers["anthropic-ratelimit-unified-reset"] = reset[0]
                headers["anthropic-ratelimit-unified-representative-claim"] = "five_hour"
            return self._send_error(429, "rate_limit_error", "rate limited (stub)", headers)
        if mode == "hang":
            self.stub.closing.wait()
            self.close_connection = True
            return None
        answer = _answer(mode, body, sum(request.mode == mode for request in self.stub.requests))
        model = str(body.get("model"))
        if not body.get("stream"):
            if answer.broken.endswith("-all"):
                return self._send_error(*ERRORS["529"])
            message: dict[str, Any] = {"id": answer.id, "type": "message", "role": "assistant", "model": model}
            message |= {"content": answer.content(), "stop_reason": answer.reason(), "stop_sequence": None}
            return self._send_json(200, {**message, "usage": answer.usage()})
        return self._stream(answer, model)

    def _event(self, kind: str, **fields: Any) -> None:
        data = f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.close()

    def _stream(self, answer: _Answer, model: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.send_header("request-id", f"req_{uuid4().hex[:20]}")
        self.end_headers()
        start: dict[str, Any] = {"id": answer.id, "type": "message", "role": "assistant", "model": model, "content": []}
        start |= {"stop_reason": None, "stop_sequence": None, "usage": USAGE}
        self._event("message_start", message=start)
        self._event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for number, text in enumerate(answer.texts):
            if answer.held and number == 1 and not self.stub.wait_for_release():
                return self._cut()
            self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
        if answer.broken.endswith("-late"):
            self._event("content_block_stop", index=0)
        if answer.broken.startswith("drop"):
            return self._cut()
        if answer.broken.startswith("sse"):
            self._event("error", error={"type": "overloaded_error", "message": "Overloaded"})
        if answer.broken:
            self.wfile.write(b"0\r\n\r\n")
            return None
        self._event("content_block_stop", index=0)
        if answer.tool:
            block: dict[str, Any] = {"type": "tool_use", "id": answer.tool_id, "name": answer.tool[0], "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(answer.tool[1])}
            self._event("content_block_start", index=1, content_block=block)
            self._event("content_block_delta", index=1, delta=delta)
            self._event("content_block_stop", index=1)
        self._event(
            "message_delta",
            delta={"stop_reason": answer.reason(), "stop_sequence": None},
            usage={"output_tokens": answer.usage()["output_tokens"]},
        )
        self._event("message_stop")
        self.wfile.write(b"0\r\n\r\n")
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    failures: list[BaseException]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news; anything else is a fault of the stub."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            self.failures.append(error)


class AnthropicStub:
    """A running stub. `requests` grows with every request for a message; `release` lets `held` answers go on."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[StubRequest] = []
        self.closing = threading.Event()
        self._news = threading.Condition()
        self._released = False
        handler = type("_BoundHandler", (_Handler,), {"stub": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self._server.failures = []
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def url(self, mode: str) -> str:
        """The base URL whose answers are those of `mode`."""
        return f"http://127.0.0.1:{self.port}/m/{quote(mode, safe='')}"

    def record(self, request: StubRequest) -> None:
        """Keep `request` and wake those who wait for it."""
        with self._news:
            self.requests.append(request)
            self._news.notify_all()

    def wait_for_requests(self, count: int, timeout: float = 20) -> None:
        """Return when `count` requests came in; raises TimeoutError after `timeout` seconds."""
        with self._news:
            if not self._news.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} of {count} requests after {timeout} s")

    def wait_for_release(self) -> bool:
        """Return True when `release` was called, False when the stub closes first."""
        with self._news:
            self._news.wait_for(lambda: self._released or self.closing.is_set())
            return self._released

    def release(self) -> None:
        """Let every `held` answer go on, now and later."""
        with self._news:
            self._released = True
            self._news.notify_all()

    def close(self) -> None:
        """Stop serving; answers that hang or are held end. Raises the first fault of the stub itself."""
        self.closing.set()
        with self._news:
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
        if self._server.failures:
            raise self._server.failures[0]


@contextlib.contextmanager
def running_stub(port: int = 0) -> Generator[AnthropicStub]:
    """A stub on `port` of loopback (0: any free one), closed at the end."""
    stub = AnthropicStub(port)
    try:
        yield stub
    finally:
        stub.close()


if __name__ == "__main__":
    with running_stub(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as served, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(f"stub of the Messages API: {served.url('ok')}\n")
        sys.stdout.flush()
        served.closing.wait()
