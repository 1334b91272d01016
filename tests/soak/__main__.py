"""`make soak`: the long form of the crash storm. SOAK_SECONDS (600), SOAK_SEED."""

import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.storm import run_storm

# Not the system's temporary directory: where that is in memory, a disk is never slow.
PLACE = Path(".build") / "soak"


def main() -> None:
    """Storm, tell, and exit with 1 when something is wrong."""
    began = time.monotonic()
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="storm-", dir=PLACE) as directory:
        wrong = run_storm(
            Path(directory).absolute(),
            seconds=float(os.environ.get("SOAK_SECONDS") or 600),
            seed=seed,
            between_sec=1.5,
            tell=lambda line: print(f"[{time.monotonic() - began:5.0f} s] {line}", flush=True),
        )
    for line in wrong:
        print(f"WRONG: {line}")
    print(f"seed {seed}: {'all is well' if not wrong else f'{len(wrong)} things are wrong'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
