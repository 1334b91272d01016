"""A canary in every place where a secret lives, everything used, then a look at all that came out: not one of them sings."""

import gzip
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from xml.etree import ElementTree

import httpx
import pytest
from services import EXAMPLES, app_of
from tests.blobs.blob_servers import S3Server
from tests.keys.key_holders import routes_of_the_runtime
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import API, StartServed, told

from bloom.base.roles import Role

BUCKET = "bloom-artifacts"
OF_ENVIRONMENT = {
    "RUNTIME_API_KEY": "canary-1c52-runtime-key",
    "RUNTIME_API_KEY_PREVIOUS": "canary-2d91-runtime-key-before",
    "MEMBRIDGE_ADMIN_KEY": "canary-3b07-membridge-key",
    "MEMBRIDGE_ADMIN_KEY_PREVIOUS": "canary-4aa8-membridge-key-before",
    "MINIO_ACCESS_KEY": "CANARY5E63ACCESS",
    "MINIO_SECRET_KEY": "canary-6f14-store-secret",
    "BLOOM_METRICS_KEY": "canary-7c39-metrics-key",
    "BLOOM_BACKUP_PASSPHRASE": "canary-8d70-passphrase",
}
SAVED = "canary-9e05-saved-in-the-settings"
PASSWORD = "canary-0a4d-database"
CLI = (
    ("config", "show"),
    ("config", "show", "--json"),
    ("task", "list"),
    ("key", "list"),
    ("doctor", "--json"),
    ("task", "list", "--runtime", "http://127.0.0.1:1"),
    ("worker", "list", "--json"),
    ("db", "check"),
    ("audit", "verify"),
    ("backup", "list"),
)


def with_password(url: str) -> tuple[str, str]:
    """The address of the database with a password, and that password: its own, or one that the server does not ask for."""
    parts = urlsplit(url)
    if parts.password:
        return url, parts.password
    user, _, place = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}:{PASSWORD}@{place}")), PASSWORD


class Scan:
    """What came out, and which canaries are in it."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = dict(OF_ENVIRONMENT)
        self.found: list[tuple[str, str, str]] = []

    def look(self, where: str, text: str | bytes, *, besides: str = "") -> None:
        """Note each secret that is in `text`, but for the one named `besides`."""
        said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        for name, secret in self.secrets.items():
            if secret in said and name != besides:
                place = said.index(secret)
                self.found.append((name, where, said[max(0, place - 80) : place + 80]))

    def look_at(self, answer: httpx.Response) -> None:
        where = f"{answer.request.method} {answer.request.url.path}"
        # A signed link names the key's id, as S3 has it; it is no secret, and no other answer tells it.
        besides = "MINIO_ACCESS_KEY" if answer.request.url.path.endswith(("/url", "/download")) else ""
        self.look(where, answer.text, besides=besides)
        headers = [line for line in answer.headers.multi_items() if line[0] != "set-cookie"]
        self.look(f"{where} headers", str(headers), besides=besides)


def call(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """The answer, of a stream its beginning."""
    with client.stream(method, path, **options) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer._content = next(answer.iter_raw(), b"")  # pyright: ignore[reportPrivateUsage]
        else:
            answer.read()
    return answer


def objects_of(endpoint: str) -> Iterator[tuple[str, bytes]]:
    """Everything in the bucket of the artifacts."""
    listed = ElementTree.fromstring(httpx.get(f"{endpoint}/{BUCKET}?list-type=2", trust_env=False).text)  # noqa: S314
    for key in [str(each.text) for each in listed.iter() if each.tag.endswith("}Key")]:
        yield key, httpx.get(f"{endpoint}/{BUCKET}/{key}", trust_env=False).content


@pytest.mark.timeout(180)
def test_no_secret_comes_out_anywhere(
    served: StartServed, database: FreshDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "bloom")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    scan, store = Scan(), S3Server()
    store.start()
    try:
        httpx.put(f"{store.endpoint}/{BUCKET}", trust_env=False).raise_for_status()
        url, scan.secrets["DATABASE_URL"] = with_password(database.url)
        before = OF_ENVIRONMENT["MEMBRIDGE_ADMIN_KEY_PREVIOUS"]
        with Membridge(
            database.url, key=OF_ENVIRONMENT["MEMBRIDGE_ADMIN_KEY"], MEMBRIDGE_ADMIN_KEY_PREVIOUS=before
        ) as plane:
            environment = {
                **{name: value for name, value in OF_ENVIRONMENT.items() if name != "BLOOM_BACKUP_PASSPHRASE"},
                "DATABASE_URL": url,
                "MINIO_ENDPOINT": store.endpoint,
                "MEMBRIDGE_SERVER_URL": plane.url,
                "BLOOM_DATA_DIR": str(tmp_path / "data"),
                "BLOOM_LOG_LEVEL": "debug",
                "BLOOM_AUDIT_EXPORT_SEC": "1",
            }
            runtime = served(**environment)
            scan.secrets["secret.key"] = (tmp_path / "data" / "secret.key").read_text().strip()
            use_everything(scan, runtime.url, plane)
            for arguments in CLI if EXAMPLES else CLI[::4]:
                scan.look(str(arguments), bloom(*arguments, here=tmp_path, BLOOM_URL=runtime.url, **environment))
            backups(scan, tmp_path, {**environment, "BLOOM_DATA_DIR": str(tmp_path / "data")})
            runtime.stop()
        for key, content in objects_of(store.endpoint):
            scan.look(f"object {key}", content)
    finally:
        store.stop()
    scan.look("log of the runtime", runtime.log.read_bytes())
    # The client that this test itself is, and its S3 server, log what they send.
    scan.look("log of Membridge", "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("bloom")))
    assert "Traceback" not in runtime.log.read_text()
    assert scan.found == [], json.dumps(scan.found[:20], indent=1)


def use_everything(scan: Scan, url: str, plane: Membridge) -> None:
    """Call every route of both services as everybody."""
    with client_of(url, OF_ENVIRONMENT["RUNTIME_API_KEY"]) as admin:
        callers: dict[str, str | None] = {"admin": OF_ENVIRONMENT["RUNTIME_API_KEY"], "nobody": None}
        for role in Role:
            fields = {"worker_name": "own"} if role in (Role.WORKER, Role.JOIN) else {}
            made = told(admin.post(f"{API}/keys", json={"name": f"a {role}", "role": role, **fields}), 201)
            callers[role] = scan.secrets[f"key of {role}"] = made["key"]
        token = told(admin.post(f"{API}/keys", json={"name": "used up", "role": "join"}), 201)["key"]
        joined = admin.post(f"{API}/keys/join", json={"name": "pi"}, headers={"X-Runtime-API-Key": token})
        scan.secrets |= {"join token": token, "key of who joined": told(joined, 201)["key"]}
        told(admin.post(f"{API}/config", json={"membridge_server_url": plane.url, "admin_key": SAVED}))
        scan.secrets["saved key"] = SAVED
        named = something(admin)
        sessions = {role: signed_in(scan, url, str(callers[role])) for role in (Role.ADMIN, Role.READER)}
    some = callers if EXAMPLES else {name: callers[name] for name in ("admin", "nobody", Role.WORKER)}
    for caller, key in some.items():
        with client_of(url, key) as client:
            for method, path in sorted(routes_of_the_runtime()):
                # What removes something, or makes a key, was done above.
                if (
                    method != "DELETE"
                    and not path.endswith(("/rotate", "/revoke", "/remove"))
                    and path != f"{API}/keys/join"
                ):
                    body: dict[str, Any] = {} if method in ("GET", "HEAD") else {"json": {}}
                    scan.look_at(call(client, method, filled(path, named), **body))
            for secret in scan.secrets.values():
                wrong = {"context_id": secret, "prompt": [secret]}
                if caller == "nobody":  # what is shown as the key, and elsewhere, is not told back either
                    scan.look_at(call(client, "GET", f"{API}/stats", headers={"X-Runtime-API-Key": secret[:-1]}))
                    scan.look_at(call(client, "POST", f"{API}/llm-tasks", json=wrong))
    for session in sessions.values():
        with closing(session):
            for method, path in sorted(routes_of_the_runtime()):
                if method == "GET":
                    scan.look_at(call(session, method, filled(path, named)))
    with client_of(url, None) as scrape:
        shown = {"Authorization": f"Bearer {OF_ENVIRONMENT['BLOOM_METRICS_KEY']}"}
        metrics = scrape.get("/metrics", headers=shown)
        assert metrics.status_code == 200
        scan.look_at(metrics)
    for path, methods in app_of("membridge").openapi()["paths"].items():
        for method in methods:
            for key in (plane.key, OF_ENVIRONMENT["MEMBRIDGE_ADMIN_KEY_PREVIOUS"], "wrong"):
                body = {} if method == "get" else {"json": {}}
                target = plane.url + re.sub(r"\{\w+\}", "nothing", path)
                scan.look_at(call(plane.http, method.upper(), target, headers={"X-MEMBRIDGE-ADMIN": key}, **body))


def client_of(url: str, key: str | None) -> httpx.Client:
    headers = {} if key is None else {"X-Runtime-API-Key": key}
    return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)


def something(admin: httpx.Client) -> dict[str, str]:
    """Things that are there, by the parameters of paths."""
    told(admin.post(f"{API}/workers", json={"name": "own", "capabilities": {"max_concurrency": 8}}), 201)
    task = told(admin.post(f"{API}/llm-tasks", json={"context_id": "c", "agent_slug": "a", "prompt": "p"}), 201)
    told(admin.post(f"{API}/llm-tasks/{task['id']}/lease", json={"worker_id": "own"}), 201)
    report = {"status": "success", "output": "x" * 100_000, "metrics": {"duration_ms": 1}}
    done = told(admin.post(f"{API}/llm-tasks/{task['id']}/complete", json=report))
    return {
        "task_id": task["id"],
        "result_id": done["result"]["id"],
        "artifact_id": done["artifact"]["id"],
        "worker_id": "own",
        "cid": "0" * 16,
    }


def filled(path: str, named: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)(?::path)?\}", lambda match: named.get(match[1], "nothing"), path)


def signed_in(scan: Scan, url: str, key: str) -> httpx.Client:
    """Somebody with an open session, whose cookie is a secret from now on."""
    client = client_of(url, None)
    client.headers["Accept"] = "text/html"
    token = re.search(r'name="form_token" value="([0-9a-f]{64})"', client.get("/sign-in").text)
    assert token
    assert client.post("/sign-in", data={"form_token": token[1], "key": key}).status_code == 303
    scan.secrets[f"session {len(scan.secrets)}"] = client.cookies["bloom_session"]
    return client


def bloom(*arguments: str | Path, here: Path, **environment: str) -> str:
    """What `bloom` says, on both streams."""
    command = [sys.executable, "-m", "bloom", *map(str, arguments)]
    variables = {"PATH": os.environ["PATH"], "HOME": str(here), **environment}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=here, env=variables)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout + ended.stderr


def backups(scan: Scan, here: Path, environment: dict[str, str]) -> None:
    """An archive that is encrypted and one that is not, as they are made without being told otherwise."""
    passphrase = {"BLOOM_BACKUP_PASSPHRASE": OF_ENVIRONMENT["BLOOM_BACKUP_PASSPHRASE"]}
    for name, more in (("locked", passphrase), ("open", {})):
        file = here / f"{name}.bloombackup"
        scan.look(f"backup create {name}", bloom("backup", "create", file, here=here, **environment, **more))
        content = file.read_bytes()
        scan.look(f"archive {name}", content)
        if name == "open":
            _, _, packed = content.partition(b"\n")
            scan.look("archive open, inside", gzip.decompress(packed[:-32]))
