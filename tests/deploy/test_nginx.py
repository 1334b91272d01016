"""The nginx settings of `deploy/`, in a real nginx with TLS before the real runtime."""

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.real_postgres import eventually
from tests.real_runtime import Replica, StartReplica, end_process, told

KEY = "the admin's key"
NAME = "bloom.example.org"
CONF = Path(__file__).parents[2] / "deploy/nginx/bloom.conf"
MEMBRIDGE_CONF = CONF.with_name("membridge.conf")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is missing (Debian: apt install nginx-light)")


def certificate(place: Path) -> None:
    """A certificate for NAME, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    place.joinpath("fullchain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    place.joinpath("privkey.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    )


class Front:
    """A running nginx, as the file of `deploy/` says, at free ports."""

    def __init__(self, place: Path, upstreams: list[str], *, membridge: str = "http://127.0.0.1:8000") -> None:
        certificate(place)
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.plain, self.secure = (each.getsockname()[1] for each in listening)
        text = re.sub(r"/etc/letsencrypt/live/[a-z.]+", str(place), CONF.read_text() + MEMBRIDGE_CONF.read_text())
        text = re.sub(r"^\s*listen \[::\].*\n", "", text, flags=re.MULTILINE)
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.plain};")
        text = text.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{self.secure} ssl http2;")
        text = text.replace("proxy_pass http://127.0.0.1:8000;", f"proxy_pass {membridge};")
        servers = "".join(
            f"    server {url.removeprefix('http://')} max_fails=1 fail_timeout=5s;\n" for url in upstreams
        )
        text = text.replace("    server 127.0.0.1:5000 max_fails=1 fail_timeout=5s;\n", servers)
        assert servers in text
        temporary = "".join(
            f"{kind}_temp_path {place};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        whole = place / "nginx.conf"
        whole.write_text(
            f"daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}{text}\n}}\n"
        )
        for each in listening:
            each.close()
        assert NGINX is not None
        tested = subprocess.run([NGINX, "-t", "-c", whole, "-p", place], capture_output=True, text=True)
        assert tested.returncode == 0, tested.stderr
        self.process = subprocess.Popen([NGINX, "-c", whole, "-p", place], stderr=subprocess.DEVNULL)
        try:
            eventually(self._listens, what="nginx")
        except BaseException:
            end_process(self.process, signal.SIGKILL)
            raise
        self.http = httpx.Client(verify=False, timeout=20, headers={"Host": NAME})  # noqa: S501 - its own certificate
        self.url = f"https://127.0.0.1:{self.secure}"

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.secure)) == 0

    def stop(self) -> None:
        self.http.close()
        end_process(self.process, signal.SIGQUIT)


@pytest.fixture
def behind(start_replica: StartReplica, tmp_path: Path) -> Generator[tuple[Replica, Front]]:
    runtime = start_replica(RUNTIME_API_KEY=KEY, BLOOM_ENV="production")
    front = Front(tmp_path, [runtime.url])
    yield runtime, front
    front.stop()


def test_plain_http_leads_to_https_and_only_there_a_session_begins(behind: tuple[Replica, Front]) -> None:
    _, front = behind
    plain = front.http.get(f"http://127.0.0.1:{front.plain}/tasks")
    assert (plain.status_code, plain.headers["Location"]) == (301, f"https://{NAME}/tasks")
    page = front.http.get(f"{front.url}/sign-in", headers={"Accept": "text/html"})
    assert page.status_code == 200
    token = re.search(r'name="form_token" value="(\w+)"', page.text)
    assert token
    signed_in = front.http.post(f"{front.url}/sign-in", data={"form_token": token[1], "key": KEY, "next": "/"})
    cookie = signed_in.headers["Set-Cookie"]
    assert signed_in.status_code == 303 and "Secure" in cookie and "HttpOnly" in cookie and "SameSite=Lax" in cookie


def test_a_task_is_served_and_followed_live(behind: tuple[Replica, Front]) -> None:
    runtime, front = behind
    runtime.register()
    key = {"X-Runtime-API-Key": KEY}
    body = {"context_id": "c", "agent_slug": "a", "prompt": "x" * 3_000_000}
    task = told(front.http.post(f"{front.url}/api/runtime/llm-tasks", json=body, headers=key), 201)
    lease = runtime.lease(task["id"])
    with front.http.stream("GET", f"{front.url}/api/runtime/llm-tasks/{task['id']}/stream", headers=key) as stream:
        lines = stream.iter_lines()
        assert "event: task" in next(line for line in lines if line.startswith("event"))
        # The first event has come through before there was a second.
        told(runtime.complete(task["id"], lease["id"]))
        assert "event: end" in [line for line in lines if line.startswith("event")]


def test_membridge_is_served_under_its_own_name(start_replica: StartReplica, tmp_path: Path) -> None:
    # Whatever answers at Membridge's port will do.
    runtime = start_replica(RUNTIME_API_KEY=KEY, BLOOM_ENV="production")
    front = Front(tmp_path, [runtime.url], membridge=runtime.url)
    try:
        host = {"Host": "membridge.example.org"}
        assert front.http.get(f"{front.url}/api/runtime/health", headers=host).status_code == 200
        plain = front.http.get(f"http://127.0.0.1:{front.plain}/health", headers=host)
        assert (plain.status_code, plain.headers["Location"]) == (301, "https://membridge.example.org/health")
    finally:
        front.stop()


def test_a_replica_that_is_gone_is_passed_over(start_replica: StartReplica, tmp_path: Path) -> None:
    one, other = (start_replica(RUNTIME_API_KEY=KEY, BLOOM_ENV="production") for _ in range(2))
    front = Front(tmp_path, [one.url, other.url])
    key = {"X-Runtime-API-Key": KEY}
    body = {"context_id": "c", "agent_slug": "a", "prompt": "Hello"}
    try:
        for round_number in range(12):
            if round_number == 4:
                one.stop()
            told(front.http.post(f"{front.url}/api/runtime/llm-tasks", json=body, headers=key), 201)
        assert told(other.get("/stats"))["tasks"]["total"] == 12
    finally:
        front.stop()
