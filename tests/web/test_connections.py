"""Connections that are slow, silent or too many do not keep others from being served."""

import resource
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import httpx
import psutil
import pytest
from tests.real_runtime import AppThread, StartServed, told
from web_serving import Serving

from bloom.base.settings import ServerSettings, load
from bloom.server.connections import MOST_HEADERS, ConnectionLimits

PATIENCE_SEC = 5
HEALTH = b"GET /api/runtime/health HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def serving(**limits: str) -> Generator[AppThread]:
    app = Serving()
    thread = AppThread(app.app, app.stopping, **limits)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


@pytest.fixture(scope="module")
def hasty() -> Generator[AppThread]:
    """A server that waits for nobody long."""
    with serving(BLOOM_HEADER_TIMEOUT_SEC="0.2", BLOOM_BODY_TIMEOUT_SEC="0.2", BLOOM_MAX_HEADER_BYTES="4096") as thread:
        yield thread


def connect(server: AppThread) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_SEC)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    told = b""
    try:
        while data := connection.recv(65_536):
            told += data
    except ConnectionResetError:
        pass
    return told


def is_served(server: AppThread) -> bool:
    return httpx.get(f"{server.url}/api/runtime/health", trust_env=False, timeout=PATIENCE_SEC).status_code == 200


def test_a_connection_that_says_nothing_is_closed(hasty: AppThread) -> None:
    with connect(hasty) as silent:
        assert rest(silent) == b""


@pytest.mark.parametrize("beginning", [b"GET / HTTP/1.1\r\nHost: loc", b"GET /api/run", HEALTH[:-2]])
def test_a_header_that_does_not_end_is_answered_408_and_closed(hasty: AppThread, beginning: bytes) -> None:
    with connect(hasty) as slow:
        slow.sendall(beginning)
        answer = rest(slow)
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"code": "request_timeout"' in answer


def test_empty_lines_keep_no_connection_open(hasty: AppThread) -> None:
    with connect(hasty) as odd:
        odd.sendall(HEALTH)
        assert odd.recv(65_536).startswith(b"HTTP/1.1 200")
        odd.sendall(b"\r\n")
        assert rest(odd) == b""


@pytest.mark.parametrize("length", [b"Content-Length: 9000", b"Transfer-Encoding: chunked"])
def test_a_body_that_does_not_come_is_answered_408_and_closed(hasty: AppThread, length: bytes) -> None:
    with connect(hasty) as slow:
        slow.sendall(b"POST /api/runtime/test-connection HTTP/1.1\r\nHost: localhost\r\n" + length + b"\r\n\r\n")
        with connect(hasty) as other:
            other.sendall(HEALTH)
            assert other.recv(65_536).startswith(b"HTTP/1.1 200")
        # The open route answers without its body; the connection ends because the body does not.
        assert rest(slow).startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 200 "))


def test_a_route_that_reads_a_body_that_stalls_is_left_and_the_client_told(hasty: AppThread) -> None:
    head = b"PUT /api/runtime/uploads/free HTTP/1.1\r\nHost: localhost\r\nX-Runtime-API-Key: a key of the admin\r\n"
    with connect(hasty) as slow:
        slow.sendall(head + b"Content-Length: 100000\r\n\r\n" + b"x" * 100)
        assert rest(slow).startswith(b"HTTP/1.1 408 ")
    with connect(hasty) as fast:
        fast.sendall(head + b"Connection: close\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
        assert b'{"bytes":100000}' in rest(fast)


@pytest.mark.parametrize(
    "fields",
    [
        b"X-Long: " + b"x" * 5000 + b"\r\n",
        b"".join(b"X-%d: 1\r\n" % number for number in range(MOST_HEADERS + 1)),
    ],
)
def test_a_header_that_is_too_large_is_answered_431(hasty: AppThread, fields: bytes) -> None:
    for ending in (b"\r\n", b""):
        with connect(hasty) as wordy:
            wordy.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + fields + ending)
            status = rest(wordy).split(b" ", 2)[1]
            assert status == b"431" if ending or b"X-Long" in fields else status == b"408"


def test_what_is_no_http_is_answered_in_the_form_of_other_errors(hasty: AppThread) -> None:
    with connect(hasty) as strange:
        strange.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = rest(strange)
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"code": "invalid"' in answer


def test_requests_that_follow_each_other_on_one_connection_are_all_answered(hasty: AppThread) -> None:
    with connect(hasty) as patient:
        patient.sendall(HEALTH * 20)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 20:
            answers += patient.recv(65_536)


def test_who_does_not_read_an_answer_holds_up_nobody_and_is_left() -> None:
    app = Serving()
    server = AppThread(app.app, app.stopping, BLOOM_BODY_TIMEOUT_SEC="0.2")
    server.start()
    try:
        with connect(server) as slow:
            slow.sendall(b"GET /api/runtime/flood HTTP/1.1\r\nX-Runtime-API-Key: a key of the admin\r\nHost: x\r\n\r\n")
            assert is_served(server)
            assert app.app.state.flood_ended.wait(PATIENCE_SEC)
    finally:
        server.stop()


def test_one_address_gets_no_more_than_its_share_and_proxies_all_they_need() -> None:
    settings = load(ServerSettings, BLOOM_MAX_CONNECTIONS=100, BLOOM_MAX_CONNECTIONS_PER_ADDRESS=3)
    limits = ConnectionLimits(settings)
    assert [limits.add(f"2001:db8::{number}") for number in range(4)] == [True, True, True, False]
    assert limits.add("2001:db8:0:1::1") and limits.add("192.0.2.7")
    limits.remove("2001:db8::0")
    limits.remove("2001:db8::1")
    assert limits.add("2001:db8::9")
    assert all(limits.add("127.0.0.1") for _ in range(50))
    assert ConnectionLimits(load(ServerSettings, BLOOM_MAX_CONNECTIONS=100)).most_per_address == 50


def test_an_address_with_too_many_connections_is_told_so() -> None:
    limits = {"BLOOM_MAX_CONNECTIONS_PER_ADDRESS": "2", "BLOOM_TRUSTED_PROXIES": "none"}
    with serving(**limits) as server, connect(server) as first, connect(server) as second:
        for connection in (first, second):
            connection.sendall(HEALTH)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        with connect(server) as third:
            answer = rest(third)
        assert answer.startswith(b"HTTP/1.1 429 ") and b"too_many_connections" in answer


def test_busy_connections_are_kept_and_idle_ones_make_room() -> None:
    head = b"PUT /api/runtime/uploads/x HTTP/1.1\r\nHost: localhost\r\nX-Runtime-API-Key: a key of the admin\r\n"
    with serving(BLOOM_MAX_CONNECTIONS="8") as server, ExitStack() as stack:
        busy = [stack.enter_context(connect(server)) for _ in range(7)]
        for connection in busy:
            connection.sendall(head + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
        idle = stack.enter_context(connect(server))
        assert is_served(server)
        assert rest(idle) == b""
        last = stack.enter_context(connect(server))
        last.sendall(head + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n")
        assert last.recv(100).startswith(b"HTTP/1.1 100")
        refused = stack.enter_context(connect(server))
        assert rest(refused).startswith(b"HTTP/1.1 503 ")
        for connection in (*busy, last):
            connection.sendall(b"x")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_ten_thousand_idle_connections_keep_nobody_out_and_cost_little_memory(served: StartServed) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = 10_000 if most == resource.RLIM_INFINITY else min(10_000, most - 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 900 if soft < count + 900 else soft, hard))
    # Nobody's time is up before the end: only the number is what makes room.
    server = served(BLOOM_MAX_CONNECTIONS="9000", BLOOM_HEADER_TIMEOUT_SEC="600")
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    address = server.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        for number in range(count):
            silent = socket.create_connection((address[0], int(address[1])), timeout=PATIENCE_SEC)
            stack.callback(silent.close)
            if number % 100 == 0:
                silent.sendall(HEALTH[:-2])
            if number % 2500 == 0:
                told(httpx.get(f"{server.url}/api/runtime/health", trust_env=False, timeout=PATIENCE_SEC))
        task = server.create()
        assert told(server.get(f"/llm-tasks/{task['id']}"))["status"] == "queued"
        assert process.memory_info().rss - before < 200 * 1024 * 1024
