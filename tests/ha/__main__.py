"""`make test-ha`: what the runtime stands on dies or goes away under load. HA_ROUNDS (6), HA_ONLY (a word of a part's name)."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.deploy.nginx_front import Front
from tests.ha.away import faketime, run_clock_jumps, run_disk_full, run_names_gone, run_store_away
from tests.ha.fail_over import run_fail_over
from tests.ha.patroni import PACKAGES, missing
from tests.ha.rolling import OwnReplica, roll
from tests.soak.storm import Tell

from bloom.db.embedded import EmbeddedPostgres
from bloom.db.migrate import upgrade
from bloom.tasks.service.checking import check

PLACE = Path(".build") / "ha"

Part = Callable[[Path, Tell], list[str]]


def run_rolling(directory: Path, tell: Tell, *, rounds: int) -> list[str]:
    """Restart two replicas behind nginx in turn, with the times of deploy/nginx/bloom.conf and docs/deployment.md."""
    with ExitStack() as stack:
        url = stack.enter_context(EmbeddedPostgres(directory / "data")).start()
        upgrade(url)
        replicas = [
            OwnReplica(f"replica-{n}", url, directory / f"replica-{n}.log", BLOOM_DRAIN_SEC="6") for n in range(2)
        ]
        for replica in replicas:
            replica.start()
            stack.callback(replica.end)
        for replica in replicas:
            replica.until_ready()
        front = Front(directory, [replica.url for replica in replicas])
        stack.callback(front.stop)
        callers, took = roll(front, replicas, rounds=rounds)
        wrong = [*callers.wrong, *(f"{one.invariant}: {one.rows}" for one in asyncio.run(check(url)))]
        tell(f"{len(took)} restarts of {min(took):.0f} to {max(took):.0f} s; {sum(callers.answers.values())} answers, "
             f"{len(callers.wrong)} of them wrong: {dict(sorted(callers.answers.items()))}")  # fmt: skip
    return wrong


def _install() -> None:
    """Get what is missing from Debian, or say what is."""
    absent = [*missing(), *([] if faketime() else ["libfaketime"])]
    if absent and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        print(f"Installing {', '.join(PACKAGES)}", flush=True)
        for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
            subprocess.run(["apt-get", *words], check=True, env=environment, stdout=subprocess.DEVNULL)
        absent = missing()
    if absent:
        sys.exit(f"missing: {', '.join(absent)}. Debian: apt install {' '.join(PACKAGES)}")


def main() -> None:
    """Run each part in a directory of its own, tell, and exit with 1 when something is wrong."""
    _install()
    rounds = int(os.environ.get("HA_ROUNDS") or 6)
    parts: Mapping[str, Part] = {
        "rolling restart": partial(run_rolling, rounds=2),
        "fail-over": lambda directory, tell: run_fail_over(directory, rounds=rounds, seed=1, tell=tell),
        "store away": partial(run_store_away, away_sec=60),
        "names gone": partial(run_names_gone, gone_sec=20),
        "disk full": partial(run_disk_full, full_sec=15),
        "clock jumps": partial(run_clock_jumps, each_sec=15),
    }
    began, wrong = time.monotonic(), list[str]()
    PLACE.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if os.environ.get("HA_ONLY", "") not in name:
            continue

        def tell(line: str, name: str = name) -> None:
            print(f"[{time.monotonic() - began:5.0f} s] {name}: {line}", flush=True)

        with tempfile.TemporaryDirectory(prefix="run-", dir=PLACE, ignore_cleanup_errors=True) as directory:
            try:
                wrong += [f"{name}: {line}" for line in part(Path(directory).absolute(), tell)]
            except (TimeoutError, AssertionError) as error:
                wrong.append(f"{name}: {error!r}")
    for line in wrong:
        print(f"WRONG: {line}")
    print("all is well" if not wrong else f"{len(wrong)} things are wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
