"""Two installations below paths of one name, as docs/scaling.md tells: a context lives in one of them."""

import re
import signal
import socket
import subprocess
import zlib
from pathlib import Path

import httpx
import pytest
from tests.deploy.nginx_front import NGINX
from tests.real_postgres import PostgresServer, eventually
from tests.real_runtime import Served, end_process

DOCUMENT = (Path(__file__).parents[2] / "docs/scaling.md").read_text()
CELLS = ("cell-a", "cell-b")
CONTEXTS = [f"context-{n}" for n in range(12)]


def _told_by_document(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _cell_of(context_id: str) -> str:
    names: dict[str, object] = {"zlib": zlib}
    exec(_told_by_document("python"), names)  # noqa: S102 - our own document, of which this is the proof
    cell_of = names["cell_of"]
    assert callable(cell_of)
    return str(cell_of(context_id))


@pytest.mark.skipif(NGINX is None, reason="nginx is missing (Debian: apt install nginx-light)")
def test_each_context_lives_in_one_cell_and_a_cell_that_is_down_takes_no_other_with_it(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with postgres_server.database() as one, postgres_server.database() as other:
        cells = {
            name: Served(
                database.url, tmp_path / f"{name}.log", BLOOM_BASE_PATH=f"/{name}", RUNTIME_API_KEY=f"key-{name}"
            )
            for name, database in zip(CELLS, (one, other), strict=True)
        }
        nginx = None
        try:
            for cell in cells.values():
                cell.start()
            url, nginx = _front(tmp_path, [cell.url for cell in cells.values()])

            def at(name: str) -> httpx.Client:
                return httpx.Client(
                    base_url=f"{url}/{name}/api/runtime", headers={"X-Runtime-API-Key": f"key-{name}"}, timeout=10
                )

            for context_id in CONTEXTS:
                with at(_cell_of(context_id)) as client:
                    made = client.post("/llm-tasks", json={"context_id": context_id, "agent_slug": "a", "prompt": "p"})
                    assert made.status_code == 201, made.text
            homes: dict[str, set[str]] = {}
            for name, database in zip(CELLS, (one, other), strict=True):
                homes[name] = {row["context_id"] for row in database.rows("select context_id from bloom.tasks")}
                assert homes[name] == {context_id for context_id in CONTEXTS if _cell_of(context_id) == name} != set()
                with at(name) as worker:
                    assert worker.post(
                        "/workers", json={"name": "w", "capabilities": {"max_concurrency": 12}}
                    ).is_success
                    claim = {"request_id": "r", "slots": 12, "wait_sec": 1}
                    leases = worker.post("/workers/w/claim", json=claim).json()["leases"]
                    assert {lease["task"]["context_id"] for lease in leases} == homes[name]
            cells["cell-a"].stop()
            with at("cell-a") as client:
                assert client.get("/llm-tasks").status_code == 502
            with at("cell-b") as client:
                assert {task["context_id"] for task in client.get("/llm-tasks").json()} == homes["cell-b"]
        finally:
            if nginx is not None:
                end_process(nginx, signal.SIGKILL)
            for cell in cells.values():
                cell.stop()


def _front(place: Path, upstreams: list[str]) -> tuple[str, "subprocess.Popen[bytes]"]:
    """nginx with the document's lines, before these."""
    text = _told_by_document("nginx")
    for written, actual in zip(("http://127.0.0.1:5001", "http://127.0.0.1:5002"), upstreams, strict=True):
        assert written in text
        text = text.replace(written, actual)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    temporary = "".join(f"{kind}_temp_path {place};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    whole = place / "nginx.conf"
    whole.write_text(
        f"daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port};\n{text}\n}}\n}}\n"
    )
    assert NGINX is not None
    nginx = subprocess.Popen([NGINX, "-c", whole, "-p", place], stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as asking:
            return asking.connect_ex(("127.0.0.1", port)) == 0

    eventually(listens, what="nginx")
    return f"http://127.0.0.1:{port}", nginx
