"""A fake runtime for tests of the worker: the routes that a worker calls, over real HTTP, with faults on demand.

It keeps just enough state to be believed (a queue, leases, events by seq, completions once per lease) and records every
request. `script` puts faults before a route's next requests; `down` and `up` are an outage.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

PATIENCE_SEC = 5
API = "/api/runtime"


@dataclass
class Fault:
    """What happens to one request instead of an answer.

    `effect`: the request is carried out. Then: `status` is answered, or, with `hang`, nothing until the event is set, or
    else the connection is cut.
    """

    effect: bool = False
    status: int | None = None
    code: str = "unavailable"
    retry_after: int | None = None
    hang: asyncio.Event | None = None
    next_seq: int | None = None


LOSE_REQUEST = Fault()
LOSE_ANSWER = Fault(effect=True)


@dataclass
class FakeTask:
    """A task and what became of it."""

    id: str
    prompt: str
    status: str = "queued"
    attempts: int = 0
    cancel: bool = False
    leases: list[str] = field(default_factory=list[str])
    completion: dict[str, Any] | None = None


class Refusal(Exception):
    """Answer with `status` and `code`."""

    def __init__(self, status: int, code: str, **detail: Any) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.detail = detail


class FakeRuntime:
    """Use `fake_runtime()`. `requests` has (route, body) of each request as it came in; routes are named as in `script`:
    register, claim, extend, events, complete."""

    def __init__(self, patience_sec: float = PATIENCE_SEC) -> None:
        self.port = 0
        self._patience_sec = patience_sec
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.tasks: dict[str, FakeTask] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.lost: set[str] = set()
        self.refuse_completion: Callable[[dict[str, Any]], str | None] = lambda _: None
        self.ttl_seconds: int | None = None
        self.slots_too_many = 0
        self._claims: dict[str, list[str]] = {}
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._version = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def script(self, route: str, *faults: Fault) -> None:
        """The next requests of `route` meet these faults, one each."""
        self._faults[route].extend(faults)

    async def add_task(self, prompt: str = "hello") -> FakeTask:
        """Put a task into the queue."""
        task = FakeTask(f"task-{len(self.tasks) + 1}", prompt)
        self.tasks[task.id] = task
        await self._notify()
        return task

    def bodies(self, route: str) -> list[dict[str, Any]]:
        """The bodies of all requests of `route`."""
        return [body for name, body in self.requests if name == route]

    def seqs(self, task: FakeTask, lease: int = 0) -> list[int]:
        """The seqs of the events stored for a lease of `task`."""
        return [event["seq"] for event in self.events[task.leases[lease]]]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds, which is looked at after each request."""
        async with asyncio.timeout(self._patience_sec), self._changed:
            await self._changed.wait_for(lambda: bool(condition()))

    async def touch(self) -> None:
        """Look at the conditions again: something outside has changed."""
        await self._notify()

    async def up(self) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(connection)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request_line, *header_lines = head.split("\r\n")
        method, path, _ = request_line.split(" ")
        headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in header_lines)}
        body: dict[str, Any] = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
        assert method == "POST", method
        parts = [unquote(part) for part in path.removeprefix(API).strip("/").split("/")]
        route = "register" if parts == ["workers"] else parts[2]
        self.requests.append((route, body))
        await self._notify()
        fault = self._faults[route].popleft() if self._faults[route] else None
        if fault is not None and not fault.effect:
            return await self._fail(fault, writer)
        try:
            status, answer = 200, await self._carry_out(route, parts[1:2], body, reader)
        except Refusal as refusal:
            status, answer = refusal.status, {"error": refusal.code, "code": refusal.code, **refusal.detail}
        await self._notify()
        if fault is not None:
            return await self._fail(fault, writer)
        await _answer(writer, status, answer)
        return True

    async def _fail(self, fault: Fault, writer: asyncio.StreamWriter) -> bool:
        if fault.hang is not None:
            await fault.hang.wait()
        if fault.status is None:
            return False
        body: dict[str, Any] = {"error": fault.code, "code": fault.code}
        if fault.next_seq is not None:
            body["next_seq"] = fault.next_seq
        await _answer(writer, fault.status, body, retry_after=fault.retry_after)
        return True

    async def _change_after(self, seen: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._version != seen)

    async def _notify(self) -> None:
        self._version += 1
        async with self._changed:
            self._changed.notify_all()

    async def _carry_out(
        self, route: str, ids: list[str], body: dict[str, Any], reader: asyncio.StreamReader
    ) -> dict[str, Any]:
        if route == "register":
            self.workers[body["name"]] = {**self.workers.get(body["name"], {}), **body}
            return {"id": body["name"], "status": body["status"]}
        if route == "events":
            return self._append(self.tasks[ids[0]], body)
        if ids[0] not in self.workers:
            raise Refusal(404, "worker_not_found")
        if route == "claim":
            return await self._claim(ids[0], body, reader)
        if route == "extend":
            return {"leases": [self._extend(held["lease_id"]) for held in body["leases"]]}
        assert route == "complete", route
        return {"completions": [self._complete(item) for item in body["completions"]]}

    async def _claim(self, worker: str, body: dict[str, Any], reader: asyncio.StreamReader) -> dict[str, Any]:
        """Grant, or wait for a task; a client that hangs up waits no more."""
        hung_up = asyncio.ensure_future(reader.read(1))
        try:
            async with asyncio.timeout(body["wait_sec"] or None):
                while not hung_up.done():
                    seen = self._version
                    if self._grant(worker, body) or not body["wait_sec"]:
                        break
                    change = asyncio.ensure_future(self._change_after(seen))
                    await asyncio.wait({hung_up, change}, return_when=asyncio.FIRST_COMPLETED)
                    change.cancel()
        except TimeoutError:
            pass
        finally:
            hung_up.cancel()
            await asyncio.wait({hung_up})
        granted = self._claims.get(body["request_id"], [])
        return {"leases": [self._leased(worker, lease_id, body["ttl_seconds"]) for lease_id in granted]}

    def _grant(self, worker: str, body: dict[str, Any]) -> bool:
        granted = self._claims.setdefault(body["request_id"], [])
        if granted:
            return True
        held = [task for task in self.tasks.values() if task.status in ("leased", "running")]
        slots = min(body["slots"], self.workers[worker]["capabilities"]["max_concurrency"] - len(held))
        room = slots + self.slots_too_many
        for task in [task for task in self.tasks.values() if task.status == "queued"][: max(0, room)]:
            task.status = "leased"
            task.attempts += 1
            task.leases.append(f"{task.id}-lease-{len(task.leases) + 1}")
            granted.append(task.leases[-1])
        return bool(granted)

    def _leased(self, worker: str, lease_id: str, ttl_seconds: int) -> dict[str, Any]:
        task = self._task_of(lease_id)
        active = task.status in ("leased", "running") and task.leases[-1] == lease_id
        lease = {
            "id": lease_id,
            "task_id": task.id,
            "worker_id": worker,
            "started_at": 0,
            "expires_at": 0,
            "ttl_seconds": self.ttl_seconds or ttl_seconds,
            "status": "active" if active else "released",
            "last_heartbeat": None,
            "context_id": "context",
        }
        return {"lease": lease, "task": _task_fields(task, lease_id, worker)}

    def _task_of(self, lease_id: str) -> FakeTask:
        return next(task for task in self.tasks.values() if lease_id in task.leases)

    def _is_held(self, lease_id: str) -> bool:
        task = self._task_of(lease_id)
        return lease_id not in self.lost and task.leases[-1] == lease_id and task.status in ("leased", "running")

    def _extend(self, lease_id: str) -> dict[str, Any]:
        if not self._is_held(lease_id):
            return {"lease_id": lease_id, "outcome": "lost", "expires_at": None}
        task = self._task_of(lease_id)
        task.status = "running"
        return {"lease_id": lease_id, "outcome": "cancel" if task.cancel else "held", "expires_at": 0}

    def _append(self, task: FakeTask, body: dict[str, Any]) -> dict[str, Any]:
        lease_id = body["lease_id"]
        if not self._is_held(lease_id):
            raise Refusal(409, "lease_lost")
        stored = self.events[lease_id]
        new = [event for event in body["events"] if event["seq"] > len(stored)]
        if new and [event["seq"] for event in new] != list(range(len(stored) + 1, len(stored) + 1 + len(new))):
            raise Refusal(409, "events_gap", next_seq=len(stored) + 1)
        stored.extend(new)
        return {"accepted": len(new), "next_seq": len(stored) + 1, "cancel": task.cancel}

    def _complete(self, item: dict[str, Any]) -> dict[str, Any]:
        task = self.tasks[item["task_id"]]
        answer = {"task_id": task.id, "lease_id": item["lease_id"], "outcome": "ok"}
        if (refusal := self.refuse_completion(item)) is not None:
            return {**answer, "outcome": refusal, "error": refusal}
        if task.completion is not None and task.completion["lease_id"] == item["lease_id"]:
            return answer if task.completion == item else {**answer, "outcome": "already_completed"}
        if not self._is_held(item["lease_id"]):
            return {**answer, "outcome": "lease_lost"}
        task.completion = item
        if item.get("hand_back") and not task.cancel:
            task.status = "queued"
            task.attempts -= 1
        else:
            task.status = "cancelled" if task.cancel else "completed" if item["status"] == "success" else "failed"
        return answer


def _task_fields(task: FakeTask, lease_id: str, worker: str) -> dict[str, Any]:
    return {
        "id": task.id,
        "context_id": "context",
        "agent_slug": "agent",
        "prompt": task.prompt,
        "context_hints": [],
        "policy": {"timeout_sec": 120, "budget": 0},
        "desired_format": "text",
        "status": task.status,
        "created_at": 0,
        "updated_at": 0,
        "lease_id": lease_id,
        "worker_id": worker,
        "attempts": task.attempts,
        "max_attempts": 3,
        "priority": 0,
        "run_at": None,
        "labels": [],
        "concurrency_key": None,
        "retry": {"base_sec": 2, "max_sec": 300},
        "cancel_requested": task.cancel,
    }


async def _answer(
    writer: asyncio.StreamWriter, status: int, body: dict[str, Any], *, retry_after: int | None = None
) -> None:
    content = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", "Content-Type: application/json", f"Content-Length: {len(content)}"]
    if retry_after is not None:
        lines.append(f"Retry-After: {retry_after}")
    writer.write("\r\n".join([*lines, "", ""]).encode() + content)
    await writer.drain()


@asynccontextmanager
async def fake_runtime(patience_sec: float = PATIENCE_SEC) -> AsyncGenerator[FakeRuntime]:
    """A listening FakeRuntime, whose `until` waits up to `patience_sec`."""
    runtime = FakeRuntime(patience_sec)
    await runtime.up()
    try:
        yield runtime
    finally:
        await runtime.down()
