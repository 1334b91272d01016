"""Whom the services call because somebody named an address, and whom they never call; and what comes back in a header."""

import ast
import re
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from services import KEY
from tests.keys.key_holders import routes_of_the_runtime
from tests.membridge.called_agent import CalledAgent
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import API, Replica, StartReplica, refused, told
from tests.upstream.membridge_stub import Stub, redirects

import bloom

SOURCES = Path(bloom.__file__).parent
NO_HTTP = (
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "gopher://127.0.0.1:1/_x",
    "javascript:alert(1)",
    "//169.254.169.254/latest/meta-data",
    "169.254.169.254",
    "http://user:password@127.0.0.1:1",
    "http://127.0.0.1:1/x?next=http://elsewhere",
    "http://127.0.0.1:1\r\nX-Injected: 1",
    "unix:///run/docker.sock",
)


@contextmanager
def nobody_calls() -> Generator[str]:
    """The address of a server that nobody may have connected to by the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        connection.close()
        pytest.fail("Somebody has called.")


def test_who_calls_is_noticed() -> None:
    """The control of `nobody_calls`."""
    with pytest.raises(pytest.fail.Exception, match="Somebody has called"), nobody_calls() as url:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))).close()


CALLERS = {
    "upstream/client.py": "Membridge, at the address that an admin saved",
    "membridge/calling.py": "an agent, at the URL that whoever has Membridge's key registered",
    "blobs/s3.py": "the object store of the environment",
    "client/runtime.py": "the runtime, from workers and the command line",
    "sync/service_client.py": "Membridge, from a node",
    "cli/installed_server.py": "the runtime that was just installed",
    "cli/local_runtime.py": "the runtime of this machine",
    "cli/serve_processes.py": "the processes of this service",
}
"""Who opens a connection for HTTP, and to whom. Who adds one says here where its address comes from."""


def test_nothing_else_calls_and_no_call_follows_a_redirect() -> None:
    found: set[str] = set()
    for source in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            if re.fullmatch(
                r"httpx\.(AsyncClient|Client|stream|get|post|put|request)|AsyncClient|(urllib\.request\.)?urlopen",
                ast.unparse(node.func),
            ):
                found.add(source.relative_to(SOURCES).as_posix())
            for keyword in node.keywords:
                if keyword.arg in ("follow_redirects", "allow_redirects"):
                    assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False, source
    assert found == set(CALLERS)


@pytest.mark.parametrize("address", NO_HTTP)
def test_only_http_addresses_are_taken(quiet_runtime: Replica, plane: Membridge, address: str) -> None:
    assert refused(quiet_runtime.post("/config", {"membridge_server_url": address}), 400) == "invalid"
    assert refused(plane.post("/agents", {"name": "pi", "url": address}), 400) == "invalid"


def test_an_admin_may_name_any_host_and_nobody_else_may(start_replica: StartReplica) -> None:
    """That is what SECURITY.md says is not defended: whoever may set the address chooses who is called."""
    runtime = start_replica(RUNTIME_API_KEY=KEY)
    metadata = {"membridge_server_url": "http://169.254.169.254"}
    for role in ("reader", "submitter"):
        key = told(runtime.post("/keys", {"name": role, "role": role}), 201)["key"]
        answer = runtime.http.post(f"{runtime.url}{API}/config", json=metadata, headers={"X-Runtime-API-Key": key})
        assert refused(answer, 403) == "forbidden"
    assert told(runtime.post("/config", metadata))["membridge_server_url"] == metadata["membridge_server_url"]
    assert "169.254.169.254" in (SOURCES.parents[1] / "SECURITY.md").read_text(encoding="utf-8")


@pytest.fixture
def plane(database: FreshDatabase) -> Generator[Membridge]:
    with Membridge(database.url, MEMBRIDGE_AGENT_KEY="a key of the agents") as started:
        yield started


def test_the_url_of_a_worker_is_shown_and_never_called(start_replica: StartReplica) -> None:
    with nobody_calls() as url:
        runtime = start_replica(RUNTIME_API_KEY=KEY)
        runtime.register("pi4", url=url)
        task, lease = runtime.leased("pi4")
        told(runtime.complete(task["id"], lease["id"]))
        for method, path in sorted(routes_of_the_runtime()):
            if method == "GET" and "stream" not in path and "/live" not in path:
                runtime.http.get(runtime.url + path.replace("{worker_id}", "pi4"))
        for action in ("drain", "resume"):
            told(runtime.post(f"/workers/pi4/{action}"))


def test_an_address_in_a_prompt_an_output_or_a_header_is_called_by_nobody(start_replica: StartReplica) -> None:
    with nobody_calls() as url:
        runtime = start_replica(RUNTIME_API_KEY=KEY)
        runtime.register("pi4")
        task, lease = runtime.leased("pi4", prompt=url, context_id=url, context_hints=[url])
        told(runtime.complete(task["id"], lease["id"], output=f"![]({url}/a.png) <img src={url}/b.png>"))
        names = ("Referer", "Origin", "Forwarded", "X-Forwarded-Host", "X-Callback-Url", "Location")
        for path in ("/", f"/tasks/{task['id']}", f"{API}/test-connection"):
            runtime.http.get(runtime.url + path, headers=dict.fromkeys(names, url))
        body = {"membridge_server_url": url, "url": url}
        runtime.http.post(f"{runtime.url}{API}/test-connection", json=body)


def test_an_agent_that_redirects_takes_its_key_nowhere_else(plane: Membridge) -> None:
    with CalledAgent().serving() as agent, nobody_calls() as elsewhere:
        told(plane.post("/projects", {"name": "garden"}), 201)
        for number, status in enumerate((301, 302, 303, 307, 308)):
            agent.status, agent.headers = status, {"Location": f"{elsewhere}/latest/meta-data"}
            told(plane.post("/agents", {"name": f"pi{number}", "url": agent.url}), 201)
            answer = plane.post("/sync/push", {"project": "garden", "agent": f"pi{number}"})
            assert refused(answer, 502) == "agent_unreachable" and elsewhere not in answer.text
        assert len(agent.calls) == 5


def test_a_membridge_that_redirects_takes_the_key_nowhere_else(start_replica: StartReplica) -> None:
    with Stub(admin_key="the key of Membridge") as stub, nobody_calls() as elsewhere:
        stub.behave("*", redirects(f"{elsewhere}/latest/meta-data"))
        runtime = start_replica(
            RUNTIME_API_KEY=KEY, MEMBRIDGE_SERVER_URL=stub.url, MEMBRIDGE_ADMIN_KEY="the key of Membridge"
        )
        for path in ("/api/membridge/projects", "/api/membridge/health"):
            answer = runtime.http.get(runtime.url + path)
            assert answer.status_code == 502 and elsewhere not in answer.text
        assert told(runtime.post("/test-connection"))["connected"] is False
        assert stub.seen


IDS = (b"a b", b"a:b", b"a\tb", b"\xe9", b"a,b", b"<script>", b"x" * 65, b"%0d%0aX-Injected:1", b"")


@pytest.mark.parametrize("value", IDS)
def test_an_id_of_a_request_comes_back_only_when_it_is_a_plain_word(quiet_runtime: Replica, value: bytes) -> None:
    for name in ("X-Request-Id", "traceparent", "tracestate", "Idempotency-Key"):
        headers = [(name.encode(), value), (b"Host", b"127.0.0.1")]
        answer = quiet_runtime.http.send(httpx.Request("GET", f"{quiet_runtime.url}{API}/stats", headers=headers))
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", answer.headers["x-request-id"])
        assert answer.headers["x-request-id"].encode() != value and "x-injected" not in answer.headers
        assert not value or value not in b"".join(each for _, each in answer.headers.raw), name


def test_a_plain_id_of_a_request_comes_back(quiet_runtime: Replica) -> None:
    answer = quiet_runtime.http.get(f"{quiet_runtime.url}{API}/stats", headers={"X-Request-Id": "Plain-1.2_3"})
    assert answer.headers["x-request-id"] == "Plain-1.2_3"


BREAK = "%0d%0aSet-Cookie:%20stolen=1"


def test_no_redirect_carries_a_line_break_or_leads_away(start_replica: StartReplica) -> None:
    runtime = start_replica(RUNTIME_API_KEY=KEY, BLOOM_ENV="production")
    ways = (
        f"/tasks/{BREAK}",
        f"/sign-in?next=/{BREAK}",
        f"/{BREAK}",
        f"//elsewhere.example/{BREAK}",
        f"/tasks?x={BREAK}",
    )
    followed = 0
    for proto in ("http", "https"):
        for way in ways:
            url = httpx.URL(runtime.url).copy_with(raw_path=way.encode())
            headers = {"X-Forwarded-Proto": proto, "Accept": "text/html", "Host": "own.example"}
            with httpx.Client(trust_env=False) as browser:
                answer = browser.send(httpx.Request("GET", url, headers=headers))
            assert "stolen" not in answer.cookies and answer.status_code < 500, way
            if to := answer.headers.get("location"):
                followed += 1
                assert to.startswith(("/", "https://own.example/")) and not to.startswith(("//", "/\\")), (way, to)
                assert not re.search(r"[\r\n]", to), way
    assert followed > 5


def test_behind_tls_each_cookie_is_for_tls_alone(start_replica: StartReplica) -> None:
    runtime = start_replica(RUNTIME_API_KEY=KEY)
    with httpx.Client(base_url=runtime.url, headers={"Accept": "text/html"}, trust_env=False) as browser:
        for proto in ("http", "https"):
            browser.headers["X-Forwarded-Proto"] = proto
            browser.cookies.clear()
            page = browser.get("/sign-in")
            token = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
            assert token
            # A jar sends no cookie for TLS over plain HTTP, as these are: the browser is told to.
            shown = {"Cookie": "; ".join(line.partition(";")[0] for line in page.headers.get_list("set-cookie"))}
            signed = browser.post("/sign-in", data={"form_token": token[1], "key": KEY}, headers=shown)
            spoken = browser.post("/language", data={"form_token": token[1], "language": "uk"}, headers=shown)
            cookies = [line for each in (page, signed, spoken) for line in each.headers.get_list("set-cookie")]
            assert any(line.startswith("bloom_session=") for line in cookies), signed.text
            for line in cookies:
                flags = {flag.strip().lower() for flag in line.split(";")[1:]}
                assert ("secure" in flags) is (proto == "https"), (proto, line)
                assert {"httponly", "path=/", "samesite=lax"} <= flags, line
