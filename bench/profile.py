"""`python -m bench.profile [life|protocol|idle ...]`: where the server spends its time under a load, as flame graphs (py-spy).

Samples cost the server time, so throughput is not told. Looking into another process needs the right to trace it (root, or
kernel.yama.ptrace_scope 0).
"""

import argparse
import subprocess
import sysconfig
import time
from functools import partial
from pathlib import Path
from threading import Thread

from bench.__main__ import RESULTS
from bench.runs import load
from bench.stack import Stack

LOADS = ("life", "protocol", "create", "create_batch", "idle")
WARM_UP_SEC = 3


def main() -> None:
    """Profile each load; one SVG of each in `bench/results/`, and the raw stacks beside it with --raw."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("loads", nargs="*", metavar="load", help=f"{', '.join(LOADS)} (life)")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--raw", action="store_true", help="stacks as text instead, to be searched and summed")
    told = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    with Stack() as stack:
        for name in told.loads or ["life"]:
            path = RESULTS / f"profile-{name}.{'txt' if told.raw else 'svg'}"
            stack.empty()
            with stack.runtime() as runtime:
                loading = Thread(
                    target=partial(load, stack, runtime, name, clients=told.clients, seconds=told.seconds + WARM_UP_SEC)
                )
                loading.start()
                time.sleep(WARM_UP_SEC)
                _record(runtime.tree.process_id, path, told.seconds, raw=told.raw)
                loading.join()
            print(f"{name}: {path}")


def _record(process_id: int, path: Path, seconds: float, *, raw: bool) -> None:
    program = Path(sysconfig.get_path("scripts")) / "py-spy"
    argv = [str(program), "record", "--pid", str(process_id), "--output", str(path), "--duration", str(round(seconds))]
    argv += ["--rate", "200", "--format", "raw" if raw else "flamegraph", "--nonblocking"]
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
