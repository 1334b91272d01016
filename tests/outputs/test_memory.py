"""A large output passes through worker and server in bounded memory, up and down."""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from tests.conftest import StartServed
from tests.outputs.uploads import named, put
from tests.real_postgres import FreshDatabase
from tests.real_runtime import told
from tests.real_worker import NO_LIMITS, RealWorker

MIB = 1024 * 1024
SIZE = 112 * MIB
MOST_GROWTH = 64 * MIB
BLOCK = b"".join(f"{n:015}\n".encode() for n in range(MIB // 16))

# The same blocks, from a program.
WRITE = """
import sys
block = b"".join(b"%015d\\n" % n for n in range(65536))
for n in range(int(sys.argv[1])):
    sys.stdout.buffer.write(b"%015d\\n" % n + block[16:])
"""


def blocks() -> Iterator[bytes]:
    for n in range(SIZE // MIB):
        yield f"{n:015}\n".encode() + BLOCK[16:]


def test_an_output_of_112_mib_goes_up_and_down_with_less_than_64_mib(
    served: StartServed, database: FreshDatabase
) -> None:
    server = served()
    server.register()
    task, lease = server.leased()
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    digest = _digest()
    up = told(put(server, lease, 0, blocks()))
    assert up["received"] == SIZE
    # As if the pieces had come through several replicas: the completion has to read it all.
    database.edit("update bloom.uploads set sha256 = null")
    fields = {**named(b"", up["output_ref"]), "output_size": SIZE, "output_sha256": digest}
    told(server.complete(task["id"], lease["id"], **fields))
    down = hashlib.sha256()
    with server.http.stream("GET", f"/artifacts/{up['output_ref']}/content") as answer:
        for piece in answer.iter_bytes():
            down.update(piece)
    assert down.hexdigest() == digest
    grown = _peak(process) - before
    assert grown < MOST_GROWTH, f"{grown / MIB:.0f} MiB"


def test_a_worker_brings_112_mib_of_a_program_with_less_than_64_mib(
    served: StartServed, database: FreshDatabase, tmp_path: Path
) -> None:
    server = served()
    argv = json.dumps([sys.executable, "-I", "-S", "-c", WRITE, str(SIZE // MIB)])
    directory = tmp_path / "worker"
    worker = RealWorker(server.url, directory, config=f"[command]\nargv = {argv}\n{NO_LIMITS}")
    worker.start()
    try:
        worker.until(lambda: told(server.get("/workers")), "the registration")
        assert worker.process is not None and server.process is not None
        processes = [psutil.Process(worker.process.pid), psutil.Process(server.process.pid)]
        before = [process.memory_info().rss for process in processes]
        task = server.create()
        worker.until(lambda: server.task(task["id"])["status"] == "completed", "the completion")
        grown = [_peak(process) - start for process, start in zip(processes, before, strict=True)]
    finally:
        worker.kill()
    assert max(grown) < MOST_GROWTH, [f"{size / MIB:.0f} MiB" for size in grown]
    (artifact,) = told(server.get("/artifacts", task_id=task["id"]))
    assert (artifact["size_bytes"], artifact["sha256"]) == (SIZE, _digest())
    # What is told of it as it comes is its beginning.
    assert database.value("select sum(length(data::text)) from bloom.task_events") < 16 * MIB


def _digest() -> str:
    digest = hashlib.sha256()
    for block in blocks():
        digest.update(block)
    return digest.hexdigest()


def _peak(process: psutil.Process) -> int:
    """The most memory that the process ever had, where the system tells (proc(5)); else what it has now."""
    status = Path(f"/proc/{process.pid}/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return process.memory_info().rss
