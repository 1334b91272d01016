"""(g) An output of 1 GiB, from a program on a worker to the runtime and from there to a reader: time, and memory."""

import asyncio
import hashlib
import sys
import time
from collections.abc import Callable

import httpx

from bench.figures import Figure, Section, Target
from bench.plan import Plan
from bench.stack import Runtime, Stack
from bench.usage import MIB, ProcessTree
from bloom.client import RuntimeClient

PATIENCE_SEC = 600

_BLOCK = b"".join(b"%015d\n" % n for n in range(MIB // 16))
_PROGRAM = """
import sys
block = b"".join(b"%015d\\n" % n for n in range(65536))
for n in range(int(sys.argv[1])):
    sys.stdout.buffer.write(b"%015d\\n" % n + block[16:])
"""
_GROWTH = Target(64, at_most=True)


def outputs(plan: Plan, stack: Stack) -> Section:
    """MiB per second, and by how many MiB the memory of each process grew at most. The limit is PostgreSQL's own: rows of
    512 KiB, each committed, written and read by one connection. Raises AssertionError when what comes back is not what was
    written.
    """
    blocks = 64 if plan.quick else 1024
    written, read = _postgres_alone(stack, blocks)
    stack.empty()
    with stack.runtime() as runtime:
        program = stack.directory / "program.py"
        program.write_text(_PROGRAM)
        command = [sys.executable, str(program), str(blocks)]
        with stack.worker(runtime, "large", slots=1, command=command) as worker_id:
            up_sec, down_sec, grew = _up_and_down(runtime, ProcessTree(worker_id), blocks)
    size = f"{blocks} MiB"
    figures = [
        Figure(f"{size}, program to artifact", blocks / up_sec, "MiB/s", written, blocks / up_sec / written),
        Figure(f"{size}, artifact to reader", blocks / down_sec, "MiB/s", read, blocks / down_sec / read),
        *(Figure(f"growth of the {who}", mib, "MiB", target=_GROWTH) for who, mib in grew.items()),
    ]
    stack.empty()
    return Section("outputs", "(g) a large output up and down", tuple(figures))


def _up_and_down(runtime: Runtime, worker: ProcessTree, blocks: int) -> tuple[float, float, dict[str, float]]:
    headers = {"X-Runtime-API-Key": runtime.key}
    with httpx.Client(base_url=f"{runtime.url}/api/runtime", timeout=60, headers=headers) as client:
        _until(lambda: client.get("/workers").json(), "the worker")
        trees = {"server, up": runtime.tree, "worker, up": worker}
        started = {who: tree.now_mib() for who, tree in trees.items()}
        began = time.monotonic()
        body = {"context_id": "bench", "agent_slug": "bench", "prompt": "write", "policy": {"timeout_sec": 600}}
        task_id: str = client.post("/llm-tasks", json=body).json()["id"]
        _until(lambda: client.get(f"/llm-tasks/{task_id}").json()["status"] == "completed", "the completion")
        up_sec = time.monotonic() - began
        grew = {who: max(tree.peak_mib() - started[who], 0) for who, tree in trees.items()}
        (artifact,) = client.get("/artifacts", params={"task_id": task_id}).json()
    assert (artifact["size_bytes"], artifact["sha256"]) == (blocks * MIB, _digest(blocks))
    began = time.monotonic()
    assert asyncio.run(_download(runtime, artifact["id"])) == artifact["sha256"]
    down_sec = time.monotonic() - began
    grew["server, up and down"] = max(runtime.tree.peak_mib() - started["server, up"], 0)
    return up_sec, down_sec, grew


async def _download(runtime: Runtime, artifact_id: str) -> str:
    digest = hashlib.sha256()
    async with RuntimeClient(runtime.url, runtime.key) as client:
        async for piece in client.download(f"/artifacts/{artifact_id}/content"):
            digest.update(piece)
    return digest.hexdigest()


def _digest(blocks: int) -> str:
    digest = hashlib.sha256()
    for n in range(blocks):
        digest.update(b"%015d\n" % n + _BLOCK[16:])
    return digest.hexdigest()


def _postgres_alone(stack: Stack, blocks: int) -> tuple[float, float]:
    """MiB per second of writing and of reading."""
    piece = _BLOCK[: MIB // 2]
    with stack.connect() as connection:
        connection.execute("create table public.pieces (n integer primary key, data bytea not null)")
        connection.execute("alter table public.pieces alter column data set storage external")
        began = time.monotonic()
        for n in range(blocks * 2):
            connection.execute("insert into public.pieces values (%s, %b)", (n, piece))
        written = blocks / (time.monotonic() - began)
        began = time.monotonic()
        for n in range(blocks * 2):
            connection.execute("select data from public.pieces where n = %s", (n,), binary=True).fetchone()
        read = blocks / (time.monotonic() - began)
        connection.execute("drop table public.pieces")
    return written, read


def _until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.05)
