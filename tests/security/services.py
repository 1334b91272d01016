"""Both services with something in them, and what their documents say."""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck
from tests.real_membridge import Membridge
from tests.real_postgres import PostgresServer
from tests.real_runtime import API, Replica, told

from bloom.base.settings import ServerSettings, load
from bloom.membridge.model import canonical_id_of, version_key
from bloom.membridge.settings import MembridgeSettings
from bloom.server.app import build_app
from bloom.server.membridge_app import build_membridge_app
from bloom.upstream import client as upstream_client

KEY = "the key of the attacked"
_NOWHERE = "postgresql://nobody@localhost/nothing"
CID, SHA256 = canonical_id_of("garden"), "ab" * 32

UNHURRIED = [
    HealthCheck.too_slow,
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
]

EXAMPLES = int(os.environ.get("BLOOM_TEST_ATTACKS", "0"))
"""How many cases of a kind to try; 0: the few, always the same, of the short form."""


@cache
def app_of(service: str) -> FastAPI:
    """The app of `runtime` or `membridge`, not served."""
    if service == "runtime":
        settings = load(
            ServerSettings, DATABASE_URL=_NOWHERE, RUNTIME_API_KEY=KEY, BLOOM_SECRET_KEY="the secret of tests"
        )
        return build_app(settings)[0]
    return build_membridge_app(load(MembridgeSettings, DATABASE_URL=_NOWHERE, MEMBRIDGE_ADMIN_KEY=KEY))[0]


def operations(service: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of each documented route."""
    for path, methods in app_of(service).openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


@dataclass(frozen=True)
class Attacked:
    """A service, whom its key makes its admin, and the things that are there, by the parameters of paths."""

    url: str
    headers: dict[str, str]
    named: dict[str, str]
    http: httpx.Client


@contextmanager
def attacked_runtime(server: PostgresServer) -> Generator[Attacked]:
    """A runtime with a worker, a finished task with its artifact, a task that is held, and a key; nobody is its Membridge."""
    with (
        pytest.MonkeyPatch.context() as patched,
        server.database() as database,
        Replica(database.url, RUNTIME_API_KEY=KEY, MEMBRIDGE_SERVER_URL="http://127.0.0.1:1") as replica,
    ):
        # Nobody waits between calls of a Membridge that is not there, or for one at an address that an attack has set.
        patched.setattr(upstream_client, "FIRST_PAUSE_SEC", 0)
        patched.setattr(upstream_client, "TIMEOUT_SEC", 1.0)
        replica.register("pi4", slots=32)
        done, lease = replica.leased("pi4")
        finished = told(replica.complete(done["id"], lease["id"]))
        task, lease = replica.leased("pi4")
        named = {
            "task_id": task["id"],
            "worker_id": "pi4",
            "artifact_id": finished["artifact"]["id"],
            "result_id": finished["result"]["id"],
            "lease_id": lease["id"],
            "key_id": told(replica.post("/keys", {"name": "a key", "role": "reader"}), 201)["id"],
            "cid": CID,
        }
        with _client(replica.url, {"X-Runtime-API-Key": KEY}) as http:
            yield Attacked(replica.url, {"X-Runtime-API-Key": KEY}, named, http)


@contextmanager
def attacked_membridge(server: PostgresServer) -> Generator[Attacked]:
    """A control plane with a project, its primary, a version, an agent and a job."""
    with server.database() as database, Membridge(database.url, key=KEY) as plane:
        epoch = plane.heartbeat("a", "garden")["epoch"]
        version = {
            "node_id": "a",
            "epoch": epoch,
            "sha256": SHA256,
            "key": version_key(CID, epoch, SHA256),
            "db_size": 1,
        }
        told(plane.post(f"/projects/{CID}/versions", version), 201)
        told(plane.post("/agents", {"name": "pi4"}), 201)
        told(plane.post("/agents/pi4/commands"))
        job = told(plane.post("/sync/push", {"project": "garden", "agent": "pi4"}))
        named = {"cid": CID, "sha256": SHA256, "name": "pi4", "job_id": job["job_id"]}
        with _client(plane.url, {"X-MEMBRIDGE-ADMIN": KEY}) as http:
            yield Attacked(plane.url, {"X-MEMBRIDGE-ADMIN": KEY}, named, http)


def _client(url: str, headers: dict[str, str]) -> httpx.Client:
    return httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)


SERVICES = {"runtime": attacked_runtime, "membridge": attacked_membridge}
STREAMS = {f"{API}/stream", f"{API}/llm-tasks/{{task_id}}/stream"}
"""What does not end by itself: tests/streams is for these."""
