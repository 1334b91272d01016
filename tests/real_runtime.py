"""The real runtime for tests: in a thread of this process, or as the process `bloom serve`."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self, TypeVar
from unittest.mock import patch

import httpx
import uvicorn
from fastapi import FastAPI

from bloom.base.settings import ServerSettings, load
from bloom.server import app as composition
from bloom.server.app import Runtime, build_app
from bloom.server.connections import ConnectionLimits, guarded_protocol
from bloom.web.disconnect import Stopping

API = "/api/runtime"
PATIENCE_SEC = 5.0
START_SEC = 30.0
_TLS = ssl.create_default_context()

T = TypeVar("T")
Body = Mapping[str, Any]


class Api:
    """An HTTP client below /api/runtime, with the calls that tests make most."""

    def __init__(self, url: str, key: str | None = None, *, timeout_sec: float = 30) -> None:
        self.url = url
        self.http = httpx.Client(
            base_url=url + API,
            headers={} if key is None else {"X-Runtime-API-Key": key},
            timeout=timeout_sec,
            verify=_TLS,
            trust_env=False,
            limits=httpx.Limits(max_connections=200, max_keepalive_connections=200),
        )

    def get(self, path: str, **params: str | int) -> httpx.Response:
        return self.http.get(path, params=params or None)

    def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        return self.http.post(path, json={} if body is None else body, headers=headers)

    def delete(self, path: str) -> httpx.Response:
        return self.http.delete(path)

    def create(self, **fields: Any) -> dict[str, Any]:
        """A new task."""
        body = {"context_id": "context", "agent_slug": "agent", "prompt": "Say hello.", **fields}
        return told(self.post("/llm-tasks", body), 201)

    def register(self, name: str = "worker", *, slots: int = 1, **fields: Any) -> dict[str, Any]:
        """A worker that is online; its name."""
        capabilities = {"max_concurrency": slots, **fields.pop("capabilities", {})}
        return told(self.post("/workers", {"name": name, "capabilities": capabilities, **fields}), 201, 200)

    def lease(self, task_id: str, worker_id: str | None = None, **fields: Any) -> dict[str, Any]:
        """A new lease of the task."""
        named = {} if worker_id is None else {"worker_id": worker_id}
        return told(self.post(f"/llm-tasks/{task_id}/lease", {**named, **fields}), 201)["lease"]

    def leased(self, worker_id: str = "worker", **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """A new task that the worker holds, and its lease."""
        ttl = {"ttl_seconds": fields.pop("ttl_seconds")} if "ttl_seconds" in fields else {}
        task = self.create(**fields)
        return task, self.lease(task["id"], worker_id, **ttl)

    def heartbeat(self, task_id: str, lease_id: str | None = None) -> httpx.Response:
        return self.post(f"/llm-tasks/{task_id}/heartbeat", {} if lease_id is None else {"lease_id": lease_id})

    def complete(self, task_id: str, lease_id: str | None = None, **fields: Any) -> httpx.Response:
        """Report success, unless `fields` say otherwise."""
        named = {} if lease_id is None else {"lease_id": lease_id}
        return self.post(f"/llm-tasks/{task_id}/complete", {**success(), **named, **fields})

    def fail(self, task_id: str, lease_id: str | None = None, **fields: Any) -> httpx.Response:
        """Report an error."""
        return self.complete(task_id, lease_id, **{"status": "error", "output": None, "error_message": "no", **fields})

    def claim(self, worker_id: str, request_id: str, slots: int = 1, wait_sec: float = 0) -> list[dict[str, Any]]:
        """What the worker's claim gets."""
        body = {"request_id": request_id, "slots": slots, "wait_sec": wait_sec}
        return told(self.post(f"/workers/{worker_id}/claim", body))["leases"]

    def task(self, task_id: str) -> dict[str, Any]:
        return told(self.get(f"/llm-tasks/{task_id}"))

    def audit(self, task_id: str) -> list[tuple[str, str]]:
        """(action, actor) of what happened to a task, oldest first."""
        entries = told(self.get("/audit", limit=1000))
        return [(e["action"], e["actor"]) for e in reversed(entries) if e["entity_id"] == task_id]

    def close(self) -> None:
        self.http.close()


def told(answer: httpx.Response, *expected: int) -> Any:
    """The JSON of an answer that has one of the `expected` statuses (200)."""
    assert answer.status_code in (expected or (200,)), (answer.status_code, answer.text[:2000])
    return answer.json()


def refused(answer: httpx.Response, status: int) -> str:
    """The code of a refusal with `status`, which is of the form of the wire contract."""
    body = told(answer, status)
    assert isinstance(body["error"], str | dict) and body["error"], body
    return body["code"]


def success(output: str | None = "Hello.") -> dict[str, Any]:
    """The body of a successful completion."""
    return {"status": "success", "output": output, "metrics": {"duration_ms": 12, "tokens_used": None}}


def at_once(count: int, call: Callable[[int], T]) -> list[T]:
    """What `call(0)` to `call(count - 1)` return, all run at once, each in a thread."""
    barrier = threading.Barrier(count)

    def run(number: int) -> T:
        barrier.wait(START_SEC)
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@contextmanager
def in_background(call: Callable[[], T]) -> Generator[Future[T]]:
    """`call` running in a thread, as a future; at the end it has been waited for."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


class _Server(uvicorn.Server):
    """Tells when it serves, and notices its end at once."""

    def __init__(self, config: uvicorn.Config, stopping: Stopping, started: threading.Event) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._started = started
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Stop. Call it on the event loop."""
        self.should_exit = True
        self._leaving.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started.set()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # As uvicorn does it, less its pause of a tenth of a second.
        self._stopping.begin()
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        async with asyncio.timeout(START_SEC):
            while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 (they tell nobody)
                await asyncio.sleep(0.001)
        await self.lifespan.shutdown()


class AppThread:
    """An app under a real server on a free port of loopback, in a thread."""

    def __init__(self, app: FastAPI, stopping: Stopping, **limits: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            http=guarded_protocol(ConnectionLimits(load(ServerSettings, **limits))),
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,
        )
        self._started = threading.Event()
        self._server = _Server(config, stopping, self._started)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="replica")

    def start(self) -> None:
        """Return when it serves."""
        self._thread.start()
        assert self._started.wait(START_SEC), "the server did not start"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of `work`, run on the server's event loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SEC * 2)

    def leave(self) -> None:
        """Tell the server to stop; does not wait for it."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._server.leave)

    def stop(self) -> None:
        """End the server and its thread."""
        self.leave()
        self._thread.join(START_SEC)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            self._loop = runner.get_loop()
            runner.run(self._server.serve(sockets=[self._listener]))


def _secret(environment: Mapping[str, str]) -> dict[str, str]:
    """The secret of the installation where the test names no data directory to keep one in: not that of the checkout."""
    return {} if "BLOOM_DATA_DIR" in environment else {"BLOOM_SECRET_KEY": "the secret of the tests"}


class Replica(Api):
    """The real app under a real server on a free port of loopback, in a thread.

    Without `maintenance` nothing happens by the clock: tests reap and promote themselves. `environment` are settings by
    their names.
    """

    def __init__(self, database_url: str, *, maintenance: bool = False, **environment: str) -> None:
        values = {"DATABASE_URL": database_url, "BLOOM_RATE_LIMIT": "off", "BLOOM_DB_POOL_SIZE": "4"}
        values |= _secret(environment) | environment
        app, stopping = build_app(load(ServerSettings, **values))
        self.services: Runtime = app.state.runtime
        self._served = AppThread(app, stopping, **values)
        with without_maintenance(composition, wanted=maintenance):
            self._served.start()
        super().__init__(self._served.url, environment.get("RUNTIME_API_KEY"))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of `work`, run on the server's event loop."""
        return self._served.run(work)

    def until_listening(self) -> None:
        """Return when the process hears notifications."""
        self.run(asyncio.wait_for(self.services.hub.listening.wait(), PATIENCE_SEC))

    def reap(self) -> list[str]:
        """Take the leases that were not renewed in time; the tasks that they were of."""
        return [lease.task_id for lease in self.run(self.services.holding.reap())]

    def leave(self) -> None:
        """Tell the server to stop; does not wait for it."""
        self._served.leave()

    def stop(self) -> None:
        """End the server and its thread."""
        self.close()
        self._served.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Fronts:
    """Replicas among which calls are dealt out: call n goes to `fronts[n]`."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas

    def __getitem__(self, number: int) -> Replica:
        return self._replicas[number % len(self._replicas)]


@contextmanager
def without_maintenance(module: ModuleType, *, wanted: bool = False) -> Generator[None]:
    """Whatever starts within does nothing by the clock, unless that is `wanted`; `module` is its composition root."""

    async def nothing(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    if wanted:
        yield
    else:
        with patch.object(module, "maintain", nothing):
            yield


def end_process(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send the signal and wait for the end, which is brought about if it does not come."""
    process.send_signal(number)
    try:
        process.wait(START_SEC)
    finally:
        process.kill()
        process.wait()


class Served(Api):
    """`python -m bloom serve` on a port that stays the same when it is killed and started again."""

    def __init__(self, database_url: str, log: Path, **environment: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "BLOOM_RATE_LIMIT": "off",
            "PYTHONUNBUFFERED": "1",
            **_secret(environment),
            **environment,
        }
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        super().__init__(f"http://127.0.0.1:{self._listener.getsockname()[1]}", environment.get("RUNTIME_API_KEY"))

    def start(self, *, wait: bool = True) -> None:
        """Start the process and, unless told otherwise, wait until it answers."""
        fd = self._listener.fileno()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bloom", "serve", "--fd", str(fd)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[fd],
                env=self._environment,
            )
        if wait:
            # The socket listens already: the request waits in its queue until the process is there.
            told(self.http.get("/health", timeout=START_SEC))

    def kill(self) -> None:
        """`kill -9`."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to stop, and wait for it."""
        self.close()
        self._end(signal.SIGTERM)
        self._listener.close()

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            process, self.process = self.process, None
            end_process(process, number)


class StartReplica(Protocol):
    """Starts one more runtime on the test's database."""

    def __call__(self, *, maintenance: bool = False, **environment: str) -> Replica: ...


class StartServed(Protocol):
    """Starts `bloom serve` as a process on the test's database."""

    def __call__(self, **environment: str) -> Served: ...


def all_pages(api: Api, path: str, **params: str | int) -> tuple[list[dict[str, Any]], Sequence[int]]:
    """All items of a list, followed by its Link headers, and how many came with each page."""
    items: list[dict[str, Any]] = []
    sizes: list[int] = []
    answer = api.get(path, **params)
    while True:
        page = told(answer)
        items += page
        sizes.append(len(page))
        if "next" not in answer.links:
            return items, sizes
        answer = api.http.get(answer.url.join(answer.links["next"]["url"]))
