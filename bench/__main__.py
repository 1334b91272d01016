"""`python -m bench`: run the measurements, print them and write them to `bench/results/`."""

import json
import os
import platform
import time
from pathlib import Path

import psutil

from bench import outputs, wakeup

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure and tell."""
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
    }
    print("  ".join(f"{name} {value}" for name, value in machine.items()))
    figures = wakeup.measure()
    print(f"\n{'wake-up, milliseconds':32}{'p50':>10}{'p99':>10}{'max':>10}")
    for name, figure in figures.items():
        print(f"{name:32}{figure['p50']:>10}{figure['p99']:>10}{figure['max']:>10}")
    large = outputs.measure()
    print(f"\n{'an output of 1 GiB':32}{'seconds':>10}{'MiB/s':>10}  memory grew at most by")
    for name, figure in large.items():
        grown = ", ".join(f"{part} {figure[part]} MiB" for part in ("server", "worker", "reader") if part in figure)
        print(f"{name:32}{figure['sec']:>10}{figure['mib_per_sec']:>10}  {grown}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({"machine": machine, "wakeup_ms": figures, "output_1_gib": large}, indent=2) + "\n")
    print(f"\nwritten to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


if __name__ == "__main__":
    main()
