"""A real nginx with the settings of `deploy/`, before runtimes of the tests."""

import re
import shutil
import signal
import socket
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.real_postgres import eventually
from tests.real_runtime import end_process

NAME = "bloom.example.org"
CONF = Path(__file__).parents[2] / "deploy/nginx/bloom.conf"
MEMBRIDGE_CONF = CONF.with_name("membridge.conf")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


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
    """A running nginx, as the file of `deploy/` says, at free ports; it keeps idle connections to replicas `keepalive_sec`."""

    def __init__(
        self, place: Path, upstreams: list[str], *, membridge: str = "http://127.0.0.1:8000", keepalive_sec: int = 4
    ) -> None:
        certificate(place)
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.plain, self.secure = (each.getsockname()[1] for each in listening)
        text = re.sub(r"/etc/letsencrypt/live/[a-z.]+", str(place), CONF.read_text() + MEMBRIDGE_CONF.read_text())
        text = re.sub(r"^\s*listen \[::\].*\n", "", text, flags=re.MULTILINE)
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.plain};")
        text = text.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{self.secure} ssl http2;")
        text = text.replace("proxy_pass http://127.0.0.1:8000;", f"proxy_pass {membridge};")
        servers = "".join(
            f"    server {url.removeprefix('http://')} max_fails=1 fail_timeout=2s;\n" for url in upstreams
        )
        text = text.replace("    server 127.0.0.1:5000 max_fails=1 fail_timeout=2s;\n", servers)
        assert servers in text
        text = text.replace("keepalive_timeout 4s;", f"keepalive_timeout {keepalive_sec}s;")
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
