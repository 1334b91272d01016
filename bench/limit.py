"""PostgreSQL's own limit: pgbench runs the row changes of the hot path on the product's tables, and nothing else.

Left out is what only a server needs: looking before it locks, counting free slots, classifying, notifying, answering. So
the limit is what no server of these tables can pass.
"""

import os
import re
import resource
import shutil
import subprocess
import time
from hashlib import sha256
from pathlib import Path

from bench.payload import OUTPUT, PROMPT
from bench.runs import Run
from bench.stack import EMPTY, Stack
from bench.usage import cores_between, read
from bloom.db.postgres_binaries import binary_directories

SINGLE = "limit_single"
BATCH = "limit_batch"
_DONE = "select count(*) from bloom.results"
_SQL = Path(__file__).parent / "sql"


def pgbench_program() -> str:
    """The pgbench that comes with the PostgreSQL that the product would embed, else the one on PATH."""
    for directory in binary_directories():
        if (directory / "pgbench").is_file():
            return str(directory / "pgbench")
    if (found := shutil.which("pgbench")) is None:
        raise FileNotFoundError("pgbench was not found (Debian: apt install postgresql-contrib)")
    return found


def measure(stack: Stack, script: str, *, clients: int, seconds: float, database: str = EMPTY) -> Run:
    """Tasks per second that `script` completed with so many clients, each on a connection of its own, prepared statements.

    What is completed is counted in the table, not by scripts run: a claim that others' locks surround gets fewer than 100.
    """
    first = int(time.time()) % 1_000_000 * 1000  # no id again where the tables were not emptied
    argv = [
        *(pgbench_program(), "--no-vacuum", "--protocol=prepared", f"--file={_SQL / f'{script}.sql'}"),
        *(f"--client={clients}", f"--jobs={min(clients, os.cpu_count() or 1)}", f"--time={max(round(seconds), 1)}"),
        *(f"--define=n={first}", f"--define=prompt={PROMPT}", f"--define=output={OUTPUT}"),
        f"--define=sha256={sha256(OUTPUT.encode()).hexdigest()}",
    ]
    trees = {"PostgreSQL": stack.postgres}
    with stack.connect(database) as connection:
        done = stack.number(connection, _DONE)
    before, mine = read(trees), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**stack.client_environment(database), "PATH": os.environ.get("PATH", "")}
    ended = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=seconds + 60)
    after, then = read(trees), resource.getrusage(resource.RUSAGE_CHILDREN)
    told = re.search(r"actually processed: (\d+).*^tps = ([0-9.]+)", ended.stdout, re.MULTILINE | re.DOTALL)
    if ended.returncode != 0 or told is None:
        raise RuntimeError(f"pgbench failed: {ended.stderr[-2000:]}")
    with stack.connect(database) as connection:
        done = stack.number(connection, _DONE) - done
    took_sec = int(told[1]) / float(told[2])
    cores = cores_between(before, after)
    generator = (then.ru_utime - mine.ru_utime + then.ru_stime - mine.ru_stime) / (after.at - before.at)
    cores |= {"generator": generator, "others": max(cores["others"] - generator, 0)}
    return Run(done / took_sec, cores, seconds=took_sec)
