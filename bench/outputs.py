"""How fast an output of 1 GiB goes from a program on a worker to the runtime and from there to a reader, and in what memory."""

import asyncio
import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from bench.stack import Stack
from bloom.client import RuntimeClient

MIB = 1024 * 1024
SIZE = 1024 * MIB
PATIENCE_SEC = 600

_BLOCK = b"".join(b"%015d\n" % n for n in range(MIB // 16))
_PROGRAM = """
import sys
block = b"".join(b"%015d\\n" % n for n in range(65536))
for n in range(int(sys.argv[1])):
    sys.stdout.buffer.write(b"%015d\\n" % n + block[16:])
"""


def measure() -> dict[str, dict[str, float]]:
    """Seconds, MiB per second, and by how many MiB the memory of each process grew at most. Raises AssertionError when what
    comes back is not what was written.
    """
    with Stack() as stack, httpx.Client(base_url=f"{stack.url}/api/runtime", timeout=60) as client:
        program = stack.directory / "program.py"
        program.write_text(_PROGRAM)
        worker_id = stack.start_worker("bench", slots=1, command=[sys.executable, str(program), str(SIZE // MIB)])
        _until(lambda: client.get("/workers").json(), "the worker")
        server, worker = _Memory(stack.server_id), _Memory(worker_id)
        began = time.monotonic()
        body = {"context_id": "bench", "agent_slug": "bench", "prompt": "write", "policy": {"timeout_sec": 600}}
        task_id: str = client.post("/llm-tasks", json=body).json()["id"]
        _until(lambda: client.get(f"/llm-tasks/{task_id}").json()["status"] == "completed", "the completion")
        up_sec = time.monotonic() - began
        up = {"server": server.growth_mib(), "worker": worker.growth_mib()}
        (artifact,) = client.get("/artifacts", params={"task_id": task_id}).json()
        assert (artifact["size_bytes"], artifact["sha256"]) == (SIZE, _digest())
        reader = _Memory(None)
        began = time.monotonic()
        digest = asyncio.run(_download(stack.url, artifact["id"]))
        down_sec = time.monotonic() - began
        assert digest == artifact["sha256"]
        down = {"server": server.growth_mib(), "reader": reader.growth_mib()}
    return {
        "program to artifact": {"sec": round(up_sec, 1), "mib_per_sec": round(SIZE / MIB / up_sec), **up},
        "artifact to reader": {"sec": round(down_sec, 1), "mib_per_sec": round(SIZE / MIB / down_sec), **down},
    }


async def _download(url: str, artifact_id: str) -> str:
    digest = hashlib.sha256()
    async with RuntimeClient(url) as client:
        async for piece in client.download(f"/artifacts/{artifact_id}/content"):
            digest.update(piece)
    return digest.hexdigest()


def _digest() -> str:
    digest = hashlib.sha256()
    for n in range(SIZE // MIB):
        digest.update(b"%015d\n" % n + _BLOCK[16:])
    return digest.hexdigest()


class _Memory:
    """A process (None: this one), from now on."""

    def __init__(self, process_id: int | None) -> None:
        self._process = psutil.Process(process_id)
        self._start = self._process.memory_info().rss

    def growth_mib(self) -> float:
        """By how much it grew at most, by its high-water mark (proc(5)) where the system has one."""
        peak = self._process.memory_info().rss
        status = Path(f"/proc/{self._process.pid}/status")
        for line in status.read_text().splitlines() if status.exists() else ():
            if line.startswith("VmHWM:"):
                peak = int(line.split()[1]) * 1024
        return round(max(peak - self._start, 0) / MIB, 1)


def _until(look: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SEC
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        time.sleep(0.05)
