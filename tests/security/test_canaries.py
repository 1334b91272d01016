"""A canary in every place where a secret lives, everything used, then a look at all that came out: not one of them sings."""

import asyncio
import gzip
import json
import logging
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
from services import EXAMPLES, app_of
from tests.blobs.blob_servers import S3Server, blobs_at
from tests.keys.key_holders import routes_of_the_runtime
from tests.membridge.called_agent import CalledAgent
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import API, StartServed, told

from bloom.base.roles import Role
from bloom.blobs.interface import all_objects

BUCKET = "bloom-artifacts"
OF_ENVIRONMENT = {
    "RUNTIME_API_KEY": "canary-1c52-runtime-key",
    "RUNTIME_API_KEY_PREVIOUS": "canary-2d91-runtime-key-before",
    "MEMBRIDGE_ADMIN_KEY": "canary-3b07-membridge-key",
    "MEMBRIDGE_ADMIN_KEY_PREVIOUS": "canary-4aa8-membridge-key-before",
    "MEMBRIDGE_AGENT_KEY": "canary-4bd7-agent-key",
    "BLOOM_SECRET_KEY": "canary-4ce9-secret-of-the-installation",
    "MINIO_ACCESS_KEY": "CANARY5E63ACCESS",
    "MINIO_SECRET_KEY": "canary-6f14-store-secret",
    "BLOOM_METRICS_KEY": "canary-7c39-metrics-key",
    "BLOOM_BACKUP_PASSPHRASE": "canary-8d70-passphrase",
}
SAVED = "canary-9e05-saved-in-the-settings"
PASSWORD = "canary-0a4d-database"
TRACER = "tracer-b7e2-no-secret"
"""The name of a worker, and the beginning of an output. It has to be found: what is blind to it would see no secret."""
CLI = (
    ("config", "show"),
    ("config", "show", "--json"),
    ("worker", "list"),
    ("key", "list"),
    ("doctor",),
    ("doctor", "--json"),
    ("task", "list", "--runtime", "http://127.0.0.1:1"),
    ("task", "list"),
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
        self.kinds: set[str] = set()
        self.traced: set[str] = set()

    def look(self, kind: str, where: str, text: str | bytes, *, besides: str = "") -> None:
        """Note each secret that is in `text`, but for those whose name begins with `besides`; and whether the tracer is."""
        said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        self.kinds.add(kind)
        if TRACER in said:
            self.traced.add(kind)
        for name, secret in self.secrets.items():
            if secret in said and not (besides and name.startswith(besides)):
                place = said.index(secret)
                self.found.append((name, where, said[max(0, place - 80) : place + 80]))

    def look_at(self, answer: httpx.Response) -> None:
        path = answer.request.url.path
        where = f"{answer.request.method} {path} {answer.status_code}"
        kind = answer.headers.get("content-type", "none").partition(";")[0]
        kind = "error" if answer.status_code >= 400 and kind == "application/json" else kind
        kind = path.rpartition("/")[2] if path.endswith(("/metrics", "/openapi.json")) and answer.is_success else kind
        # A signed link names the key's id, as S3 has it; it is no secret, and no other answer tells it.
        besides = "MINIO_ACCESS_KEY" if path.endswith(("/url", "/download")) else ""
        # A page has the form token of who reads it.
        self.look(kind, where, answer.text, besides=besides or ("form token" if kind == "text/html" else ""))
        headers = [line for line in answer.headers.multi_items() if line[0] != "set-cookie"]
        self.look("headers", f"{where} headers", str(headers), besides=besides)


def call(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    """The answer, of a stream its beginning."""
    with client.stream(method, path, **options) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            # That of a task which is done tells its end at once; all of the others is their beginning.
            last, said = (b"event: end" if path.startswith(f"{API}/llm-tasks/") else b""), b""
            chunks = answer.iter_raw()
            while not said or last not in said:
                said += next(chunks)
            answer._content = said  # pyright: ignore[reportPrivateUsage]
        else:
            answer.read()
    return answer


def objects_of(endpoint: str) -> list[tuple[str, bytes]]:
    """Everything in the bucket of the artifacts: read with a key, for without one nobody is shown a thing."""

    async def read() -> list[tuple[str, bytes]]:
        bucket = blobs_at(endpoint, BUCKET)
        listed = [each for prefix in ("artifacts", "audit") for each in await all_objects(bucket, prefix)]
        return [(each.key, await bucket.get(each.key)) for each in listed]

    return asyncio.run(read())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("secret_in", ["secret.key", "BLOOM_SECRET_KEY"])
def test_no_secret_comes_out_anywhere(
    served: StartServed, database: FreshDatabase, tmp_path: Path, caplog: pytest.LogCaptureFixture, secret_in: str
) -> None:
    caplog.set_level(logging.DEBUG, "bloom")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    scan, store = Scan(), S3Server()
    store.start()
    try:
        httpx.put(f"{store.endpoint}/{BUCKET}", trust_env=False).raise_for_status()
        url, scan.secrets["DATABASE_URL"] = with_password(database.url)
        keys: dict[str, Any] = {
            name: OF_ENVIRONMENT[name] for name in ("MEMBRIDGE_ADMIN_KEY_PREVIOUS", "MEMBRIDGE_AGENT_KEY")
        }
        with (
            Membridge(database.url, key=OF_ENVIRONMENT["MEMBRIDGE_ADMIN_KEY"], **keys) as plane,
            CalledAgent().serving() as agent,
        ):
            elsewhere = {"BLOOM_BACKUP_PASSPHRASE", "MEMBRIDGE_AGENT_KEY"}
            elsewhere |= {"BLOOM_SECRET_KEY"} if secret_in == "secret.key" else set()
            environment = {
                **{name: value for name, value in OF_ENVIRONMENT.items() if name not in elsewhere},
                "DATABASE_URL": url,
                "MINIO_ENDPOINT": store.endpoint,
                "MEMBRIDGE_SERVER_URL": plane.url,
                "BLOOM_DATA_DIR": str(tmp_path / "data"),
                "BLOOM_LOG_LEVEL": "debug",
                "BLOOM_LOG_FORMAT": "human" if secret_in == "secret.key" else "json",
                "BLOOM_LOG_FILE": str(tmp_path / "bloom.log"),
                "BLOOM_AUDIT_EXPORT_SEC": "1",
            }
            runtime = served(**environment)
            if secret_in == "secret.key":
                scan.secrets["secret.key"] = (tmp_path / "data" / "secret.key").read_text().strip()
            agent_is_called(plane, agent)
            use_everything(scan, runtime.url, plane)
            for arguments in CLI if EXAMPLES else CLI[:: 4 if secret_in == "secret.key" else 3]:
                said = bloom(*arguments, here=tmp_path, BLOOM_URL=runtime.url, **environment)
                scan.look("doctor" if arguments[0] == "doctor" else "command", str(arguments), said)
            backups(scan, tmp_path, {**environment, "BLOOM_DATA_DIR": str(tmp_path / "data")})
            runtime.stop()
        for key, content in objects_of(store.endpoint):
            said = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            scan.look(key.partition("/")[0], f"object {key}", said)
    finally:
        store.stop()
    log = runtime.log.read_bytes() + (tmp_path / "bloom.log").read_bytes()
    scan.look("log", "log of the runtime", log)
    # The client that this test itself is, and its S3 server, log what they send.
    scan.look(
        "log", "log of Membridge", "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("bloom"))
    )
    assert b"Traceback" not in log
    assert scan.found == [], json.dumps(scan.found[:20], indent=1)
    assert scan.kinds >= TRACED | UNTRACED, UNTRACED - scan.kinds
    assert scan.traced >= TRACED, f"the scan does not see what is in {TRACED - scan.traced}"


TRACED = {
    "application/json",
    "text/html",
    "text/plain",
    "text/event-stream",
    "log",
    "command",
    "archive",
    "artifacts",
    "audit",
}
"""Where the tracer comes out: answers, pages, streams, logs, the command line, backups, objects, exported audit files."""


UNTRACED = {"metrics", "openapi.json", "headers", "error"}


@pytest.mark.parametrize("secret", sorted(OF_ENVIRONMENT))
def test_a_secret_that_comes_out_is_found(secret: str) -> None:
    """The control of the test above: each way in which a secret could come out is seen."""
    text = f"before {OF_ENVIRONMENT[secret]} after"
    for answer in (
        httpx.Response(200, text=text),
        httpx.Response(200, json={"a": [text]}),
        httpx.Response(500, json={"error": text}),
        httpx.Response(200, html=text),
        httpx.Response(302, headers={"Location": f"/{OF_ENVIRONMENT[secret]}"}),
    ):
        answer.request = httpx.Request("GET", "http://runtime/metrics")
        scan = Scan()
        scan.look_at(answer)
        assert {name for name, _, _ in scan.found} == {secret}
    scan = Scan()
    scan.look("log", "a log", text.encode())
    scan.look("artifacts", "an object", b"\xff" + text.encode())
    assert [name for name, _, _ in scan.found] == [secret, secret]


def agent_is_called(plane: Membridge, agent: CalledAgent) -> None:
    """Let Membridge call an agent that repeats the key that it was shown."""
    agent.answer = {"ok": False, "detail": "no", "stdout": "out", "stderr": "", "returncode": 1}
    told(plane.post("/projects", {"name": "garden"}), 201)
    told(plane.post("/agents", {"name": "called", "url": agent.url}), 201)
    told(plane.post("/sync/push", {"project": "garden", "agent": "called"}))
    eventually(lambda: agent.calls)
    assert agent.calls[0][1]["x-membridge-agent"] == OF_ENVIRONMENT["MEMBRIDGE_AGENT_KEY"]


def use_everything(scan: Scan, url: str, plane: Membridge) -> None:
    """Call every route of both services as everybody."""
    with client_of(url, OF_ENVIRONMENT["RUNTIME_API_KEY"]) as admin:
        callers: dict[str, str | None] = {"admin": OF_ENVIRONMENT["RUNTIME_API_KEY"], "nobody": None}
        for role in Role:
            fields = {"worker_name": TRACER} if role in (Role.WORKER, Role.JOIN) else {}
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
    scan.look_at(plane.get("/openapi.json"))


def client_of(url: str, key: str | None) -> httpx.Client:
    headers = {} if key is None else {"X-Runtime-API-Key": key}
    return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)


def something(admin: httpx.Client) -> dict[str, str]:
    """Things that are there, by the parameters of paths."""
    told(admin.post(f"{API}/workers", json={"name": TRACER, "capabilities": {"max_concurrency": 8}}), 201)
    task = told(admin.post(f"{API}/llm-tasks", json={"context_id": "c", "agent_slug": "a", "prompt": "p"}), 201)
    told(admin.post(f"{API}/llm-tasks/{task['id']}/lease", json={"worker_id": TRACER}), 201)
    report = {"status": "success", "output": TRACER + "x" * 100_000, "metrics": {"duration_ms": 1}}
    done = told(admin.post(f"{API}/llm-tasks/{task['id']}/complete", json=report))
    return {
        "task_id": task["id"],
        "result_id": done["result"]["id"],
        "artifact_id": done["artifact"]["id"],
        "worker_id": TRACER,
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
    token = re.search(r'name="form_token" value="([0-9a-f]{64})"', client.get("/").text)
    assert token
    scan.secrets[f"form token {len(scan.secrets)}"] = token[1]
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
        scan.look("command", f"backup create {name}", bloom("backup", "create", file, here=here, **environment, **more))
        content = file.read_bytes()
        scan.look("archive", f"archive {name}", content)
        if name == "open":
            _, _, packed = content.partition(b"\n")
            scan.look("archive", "archive open, inside", gzip.decompress(packed[:-32]))
