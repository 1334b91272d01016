"""The crash storm: blows at random over a fleet that works, then peace, then one look at what is left."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tests.soak.fleet import TTL_SEC, Fleet, Program, wait_until
from tests.soak.traffic import Ledger, Traffic
from tests.worker.living import marked, with_marker

from bloom.tasks.service.checking import check

PROGRESS_SEC = 5.0
PEACE_SEC = 120.0
"""By then every task is final: the longest waits are a lease that nobody renews and the reaper's round."""

Tell = Callable[[str], None]


@dataclass
class Storm:
    """Blows, by name, each with what heals it. `struck` counts them."""

    fleet: Fleet
    ledger: Ledger
    choose: random.Random
    struck: Counter[str] = field(default_factory=Counter[str])
    healing: list[tuple[float, Callable[[], object]]] = field(default_factory=list[tuple[float, Callable[[], object]]])

    def blows(self) -> dict[str, Callable[[], None]]:
        """What can happen."""
        return {
            "replicas killed": lambda: self._kill(self.choose.choice(self.fleet.replicas)),
            "workers killed": lambda: self._kill(self.choose.choice(self.fleet.workers)),
            "children killed": self._kill_below_a_worker,
            "postmasters killed": self._kill_postmaster,
            "backends killed": lambda: self.fleet.kill_backend(self.choose),
            "replicas paused": lambda: self._pause(self.choose.choice(self.fleet.replicas)),
            "workers paused": lambda: self._pause(self.choose.choice(self.fleet.workers)),
            "slow disks": self._slow_disk,
        }

    def rage(self, seconds: float, between_sec: float, tell: Tell) -> None:
        """Strike for so long: first each kind once, however long that takes, then the lighter ones more often."""
        blows = self.blows()
        light = [name for name in blows if name not in ("postmasters killed", "backends killed", "slow disks")]
        first = self.choose.sample(sorted(blows), len(blows))
        until, told_at = time.monotonic() + seconds, time.monotonic()
        while (now := time.monotonic()) < until or first:
            self._heal_until(now)
            name = first.pop() if first else self.choose.choice([*blows, *light, *light])
            blows[name]()
            self.struck[name] += 1
            if now - told_at > PROGRESS_SEC:
                told_at = now
                tell(
                    f"{max(until - now, 0):4.0f} s left, {len(self.ledger.created)} tasks acknowledged; {self.words()}"
                )
            time.sleep(self.choose.uniform(0.5, 1.5) * between_sec)

    def words(self) -> str:
        """What was struck so far."""
        return ", ".join(f"{name} {count}" for name, count in sorted(self.struck.items()))

    def _heal_until(self, moment: float) -> None:
        due = [heal for at, heal in self.healing if at <= moment]
        self.healing = [(at, heal) for at, heal in self.healing if at > moment]
        for heal in due:
            heal()

    def _heal_in(self, least: float, most: float, heal: Callable[[], object]) -> None:
        self.healing.append((time.monotonic() + self.choose.uniform(least, most), heal))

    def _kill(self, program: Program) -> None:
        program.end()
        self._heal_in(0, 1.5, program.start)

    def _pause(self, program: Program) -> None:
        program.send(signal.SIGSTOP)
        self._heal_in(0.5, TTL_SEC + 2, program.start)

    def _kill_below_a_worker(self) -> None:
        if found := self.fleet.below_workers():
            with suppress(psutil.Error):
                self.choose.choice(found).kill()

    def _kill_postmaster(self) -> None:
        self.fleet.kill_postmaster()
        self._heal_in(0, 1.5, self.fleet.postgres.start)

    def _slow_disk(self) -> None:
        self.fleet.slow_disk(100)
        self._heal_in(1, 3, lambda: self.fleet.slow_disk(0))


def run_storm(directory: Path, *, seconds: float, seed: int, between_sec: float, tell: Tell) -> list[str]:
    """Let it rage for `seconds` over a fleet in `directory`, which is empty; what is wrong afterwards."""
    tell(f"storm of {seconds:.0f} s, seed {seed} (SOAK_SECONDS, SOAK_SEED)")
    with marked() as marker, Fleet(directory, marker) as fleet:
        traffic = Traffic(fleet.addresses, [worker.name for worker in fleet.workers], seed)
        traffic.start()
        ledger = traffic.ledger
        wait_until(lambda: len(ledger.created) > 3 and ledger.completed, "the fleet")
        storm = Storm(fleet, ledger, random.Random(seed))
        storm.rage(seconds, between_sec, tell)
        tell(f"struck: {storm.words()}")
        fleet.heal()
        traffic.stop()
        wrong = list(ledger.wrong)
        try:
            until_final(fleet, tell)
            wait_until(lambda: not with_marker(marker), "the end of every child", within_sec=10)
        except TimeoutError as error:
            wrong.append(f"{error}: {told_of_tasks(fleet)}, processes {with_marker(marker)}")
        wrong += [f"{worker.name} did not stop" for worker in fleet.workers if not worker.end(signal.SIGTERM)]
        leases = {str(row[0]) for row in fleet.query("select id from bloom.leases")}
        wrong += [f"orphan process {pid}" for pid in of_leases(leases)]
        wrong += verdict(fleet, ledger)
        tell(f"{told_of_tasks(fleet)}; {len(leases)} leases; answers: {dict(sorted(ledger.answers.items()))}, "
             f"{ledger.unanswered} never came")  # fmt: skip
        tell(f"acknowledged: {len(ledger.created)} tasks, {len(ledger.completed)} completions by hand")
        return wrong


def until_final(fleet: Fleet, tell: Tell) -> None:
    """Return when every task is final. Raises TimeoutError."""
    unfinished = "select count(*) from bloom.tasks where status in ('queued', 'leased', 'running')"
    told_at = 0.0

    def over() -> bool:
        nonlocal told_at
        ((count,),) = fleet.query(unfinished)
        if time.monotonic() - told_at > PROGRESS_SEC:
            told_at = time.monotonic()
            tell(f"peace: {count} tasks to go")
        return count == 0

    wait_until(over, "the end of every task", within_sec=PEACE_SEC)


def told_of_tasks(fleet: Fleet) -> str:
    """How many tasks are in each state."""
    counted = fleet.query("select status, count(*) from bloom.tasks group by 1 order by 1")
    return "tasks: " + ", ".join(f"{count} {status}" for status, count in counted)


def of_leases(lease_ids: set[str]) -> list[int]:
    """The processes, guardians too, that carry one of these leases in their environment."""
    found: list[int] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("BLOOM_LEASE_ID") in lease_ids and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def verdict(fleet: Fleet, ledger: Ledger) -> list[str]:
    """What the tables say that they must not, in themselves (`bloom db check`) and beside what was acknowledged."""
    wrong = [f"{one.invariant}: {one.rows} ({one.ids})" for one in asyncio.run(check(fleet.url))]
    known = {str(key): str(task) for key, task in fleet.query("select key, task_id from bloom.idempotency_keys")}
    there = {str(task) for (task,) in fleet.query("select id from bloom.tasks")}
    wrong += [f"task {task} was acknowledged and is lost" for task in ledger.created.values() if task not in there]
    wrong += [f"{key} stands for {known.get(key)}, not {task}" for key, task in ledger.created.items()
              if known.get(key) != task]  # fmt: skip
    wrong += [f"task {task} was never acknowledged" for task in there - set(ledger.created.values())]
    results = {
        str(lease): str(task)
        for lease, task in fleet.query("select lease_id, task_id from bloom.results where status = 'success'")
    }
    wrong += [
        f"the completion of {task} by {lease} was acknowledged and is lost"
        for lease, task in ledger.completed.items()
        if results.get(lease) != task
    ]
    return wrong
