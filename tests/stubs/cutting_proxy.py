"""A TCP proxy before a runtime that cuts at a chosen moment of a chosen call, within an upload, or everything at once.

It knows just enough of HTTP/1.1 to tell one call from the next: the worker sends one request at a time on a connection.
"""

import contextlib
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

PATIENCE_SEC = 30.0
_CHUNK = 65536
_CALL = re.compile(rb"POST \S+/(\w+) HTTP/1\.1\r\n")

Moment = Literal["request", "answer", "half an answer"]
"""What is lost: the request, so that it has no effect; the answer to one that has; or the second half of the answer."""


@dataclass
class _Cut:
    call: str
    moment: Moment
    met: bool = False


@dataclass(eq=False)
class _Pair:
    """A client's connection and its twin to the runtime."""

    client: socket.socket
    runtime: socket.socket
    losing: _Cut | None = None
    calls: list[str] = field(default_factory=list[str])

    def end(self) -> None:
        for end in (self.client, self.runtime):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class CuttingProxy:
    """Use `cutting_proxy(url)`. Calls are named by the last part of their path: claim, extend, events, complete, workers."""

    def __init__(self, runtime_url: str) -> None:
        parts = urlsplit(runtime_url)
        self._runtime = (parts.hostname or "", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.calls: list[str] = []
        self.upload_cuts: deque[int] = deque()
        """Each upload (PUT) is cut behind the next of these numbers of bytes, while there are any."""
        self._cuts: list[_Cut] = []
        self._pairs: set[_Pair] = set()
        self._passing = True
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self, call: str, moment: Moment, times: int = 1) -> None:
        """Cut the next `times` calls of this name at `moment`."""
        with self._changed:
            self._cuts += [_Cut(call, moment) for _ in range(times)]

    def until_cut(self) -> None:
        """Return when every cut that was asked for is made, or is sure to be: its call has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: all(cut.met for cut in self._cuts), PATIENCE_SEC), self._cuts

    def until_called(self, call: str, times: int = 1) -> None:
        """Return when `times` more calls of this name came through, in whole."""
        with self._changed:
            wanted = self.calls.count(call) + times
            assert self._changed.wait_for(lambda: self.calls.count(call) >= wanted, PATIENCE_SEC), call

    def down(self) -> None:
        """Cut every connection, and let none begin."""
        with self._changed:
            self._passing = False
            pairs = tuple(self._pairs)
        for pair in pairs:
            pair.end()

    def up(self) -> None:
        """Let connections begin again."""
        with self._changed:
            self._passing = True

    def close(self) -> None:
        """End every connection and thread."""
        self.down()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_SEC)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, name="cutting proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                passing = self._passing
            if not passing:
                client.close()
                continue
            try:
                runtime = socket.create_connection(self._runtime, timeout=PATIENCE_SEC)
            except OSError:
                client.close()
                continue
            runtime.settimeout(None)
            pair = _Pair(client, runtime)
            with self._changed:
                self._pairs.add(pair)
                if not self._passing:
                    pair.end()
            self._start(self._serve, pair)

    def _serve(self, pair: _Pair) -> None:
        answering = threading.Thread(target=self._pass_answers, args=(pair,), daemon=True)
        answering.start()
        try:
            self._pass_requests(pair)
        finally:
            pair.end()
            answering.join(PATIENCE_SEC)
            pair.client.close()
            pair.runtime.close()
            with self._changed:
                self._pairs.discard(pair)

    def _pass_requests(self, pair: _Pair) -> None:
        left: int | None = None
        with contextlib.suppress(OSError):
            while (left is None or left > 0) and (chunk := pair.client.recv(_CHUNK)):
                if (head := _CALL.match(chunk)) is not None and self._begins(pair, head[1].decode()):
                    return
                if left is None and chunk.startswith(b"PUT ") and self.upload_cuts:
                    left = self.upload_cuts.popleft()
                pair.runtime.sendall(chunk[:left])
                left = None if left is None else left - len(chunk)

    def _begins(self, pair: _Pair, call: str) -> bool:
        """A call begins; whether its request is to be lost."""
        with self._changed:
            cut = next((cut for cut in self._cuts if cut.call == call and not cut.met), None)
            pair.losing = None
            pair.calls.append(call)
            if cut is None:
                return False
            cut.met = True
            if cut.moment == "request":
                self._changed.notify_all()
                return True
            pair.losing = cut
            return False

    def _pass_answers(self, pair: _Pair) -> None:
        with contextlib.suppress(OSError):
            while chunk := pair.runtime.recv(_CHUNK):
                with self._changed:
                    losing = pair.losing
                if losing is not None:
                    if losing.moment == "half an answer":
                        pair.client.sendall(chunk[: len(chunk) // 2])
                    with self._changed:
                        self._changed.notify_all()
                    break
                pair.client.sendall(chunk)
                with self._changed:
                    self.calls += pair.calls
                    pair.calls.clear()
                    self._changed.notify_all()
        pair.end()


@contextmanager
def cutting_proxy(runtime_url: str) -> Generator[CuttingProxy]:
    """A proxy before the runtime at this address."""
    proxy = CuttingProxy(runtime_url)
    try:
        yield proxy
    finally:
        proxy.close()
