"""`bloom serve --processes N`: real processes behind one address."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection

import httpx
import psutil
import pytest
from tests.real_postgres import FreshDatabase

PATIENCE_SEC = 60
"""Python starts three times, one after the other, on what may be a busy machine."""


class Serving:
    """`bloom serve --processes 2`, and what it started."""

    def __init__(self, listener: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.port: int = listener.getsockname()[1]
        self.process = process

    def runtimes(self) -> list[psutil.Process]:
        """The processes that serve or are about to."""
        return psutil.Process(self.process.pid).children()

    def get(self, path: str) -> httpx.Response:
        """The answer to a request on a connection of its own."""
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.get(url, timeout=PATIENCE_SEC, verify=False)  # noqa: S501 (no TLS)

    def answers(self) -> int:
        """The status of such an answer."""
        return self.get("/api/runtime/health").status_code

    def told(self) -> set[tuple[float, float]]:
        """What eight scrapes tell: how often the recent tasks were asked for, and the limit of the pools."""
        runs = r'bloom_request_seconds_count\{[^}]*route="/api/runtime/runs"[^}]*\} (\S+)'
        limit = r'bloom_db_pool_connections\{use="limit"\} (\S+)'
        scrapes = [self.get("/metrics").text for _ in range(8)]
        return {(sum(map(float, re.findall(runs, text))), sum(map(float, re.findall(limit, text)))) for text in scrapes}

    def both_serve(self) -> bool:
        """Whether a dozen connections reach two processes."""
        with ExitStack() as open_clients:
            for _ in range(12):
                connection = open_clients.enter_context(
                    closing(HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SEC))
                )
                connection.request("GET", "/api/runtime/health")
                assert connection.getresponse().read()
            return sum(self._is_connected(one) for one in self.runtimes()) == 2

    def _is_connected(self, process: psutil.Process) -> bool:
        connections = process.net_connections("tcp")
        return any(one.status == psutil.CONN_ESTABLISHED and one.laddr.port == self.port for one in connections)


@contextmanager
def _serving(url: str, *options: str, **environment: str) -> Generator[Serving]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        argv = [sys.executable, "-m", "bloom", "serve", "--processes", "2", "--fd", str(number), *options]
        process = subprocess.Popen(argv, pass_fds=[number], env={**os.environ, "DATABASE_URL": url, **environment})
        try:
            yield Serving(listener, process)
        finally:
            process.terminate()
            process.wait(PATIENCE_SEC)


@pytest.fixture
def serving(database: FreshDatabase) -> Generator[Serving]:
    with _serving(database.url, BLOOM_RATE_LIMIT="off") as serving:
        yield serving


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_dead_process_is_replaced_what_it_counted_is_kept_and_all_end_with_the_one_that_started_them(
    serving: Serving,
) -> None:
    _until(serving.both_serve)
    for _ in range(8):
        serving.get("/api/runtime/runs")
    # Whichever is asked tells of both: what they have counted, and what their pools may have together.
    _until(lambda: serving.told() == {(8.0, 16.0)})
    before = {one.pid for one in serving.runtimes()}
    victim = min(before)

    os.kill(victim, signal.SIGKILL)

    # Each connection is answered by whoever lives, or waits for the one that is coming.
    assert [serving.answers() for _ in range(8)] == [200] * 8
    _until(serving.both_serve)
    _until(lambda: serving.told() == {(8.0, 16.0)})
    after = serving.runtimes()
    assert victim not in {one.pid for one in after}

    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(PATIENCE_SEC) == 0
    psutil.wait_procs(after, timeout=PATIENCE_SEC)
    assert not any(one.is_running() for one in after)


def test_no_process_outlives_the_one_that_started_it_be_it_killed(serving: Serving) -> None:
    _until(serving.both_serve)
    runtimes = serving.runtimes()

    serving.process.kill()

    _, alive = psutil.wait_procs(runtimes, timeout=PATIENCE_SEC)
    assert not alive


def test_what_keeps_the_first_process_from_serving_ends_all_with_its_exit_code() -> None:
    with _serving("postgresql://nobody@127.0.0.1:1/none", BLOOM_TRUSTED_PROXIES="nonsense") as serving:
        assert serving.process.wait(PATIENCE_SEC) == 2


def test_a_runtime_that_reloads_serves_and_ends_with_its_child(database: FreshDatabase) -> None:
    with _serving(database.url, "--reload") as serving:
        assert serving.answers() == 200
        (child,) = serving.runtimes()
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(PATIENCE_SEC) == 0
        assert not child.is_running()
