"""The guardian alone: a process above another, spoken to by pipes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from living import marked, until, with_marker

from bloom.worker import guardian
from bloom.worker.guardian import descendants_of, from_ps


@pytest.fixture
def marker() -> Generator[str]:
    with marked() as made:
        yield made


@dataclass
class Guarded:
    process: subprocess.Popen[bytes]
    control: int
    status: int

    def order(self, letter: bytes) -> None:
        os.write(self.control, letter)

    def report(self) -> dict[str, Any]:
        """Waits for the guardian's end."""
        with os.fdopen(os.dup(self.status)) as pipe:
            said = pipe.read()
        assert self.process.wait(timeout=20) == 0
        return json.loads(said)


@contextmanager
def guarded(*argv: str, grace_sec: float = 5, stdout: int | None = None) -> Generator[Guarded]:
    control, our_control = os.pipe()
    our_status, status = os.pipe()
    command = [sys.executable, "-I", "-S", guardian.__file__, str(control), str(status), str(grace_sec), *argv]
    process = subprocess.Popen(command, pass_fds=(control, status), stdout=stdout)
    os.close(control)
    os.close(status)
    try:
        yield Guarded(process, our_control, our_status)
    finally:
        with contextlib.suppress(OSError):
            os.close(our_control)
        os.close(our_status)
        process.kill()
        process.wait()


@pytest.mark.parametrize(("script", "report"), [("exit 0", {"exit": 0}), ("exit 7", {"exit": 7})])
def test_it_reports_the_exit_status_of_the_child(script: str, report: dict[str, int]) -> None:
    with guarded("sh", "-c", script) as running:
        assert running.report() == {**report, "leftovers": 0, "refused": 0}


def test_it_reports_the_signal_that_ended_the_child() -> None:
    with guarded("sh", "-c", "kill -USR1 $$") as running:
        assert running.report() == {"signal": signal.SIGUSR1, "leftovers": 0, "refused": 0}


def test_it_reports_why_a_program_could_not_be_started() -> None:
    with guarded("/there/is/no/such/program") as running:
        assert running.report() == {"errno": 2}


def test_what_a_child_leaves_behind_is_killed_when_it_ends(marker: str) -> None:
    script = f"setsid sleep {marker} & (setsid sh -c 'trap : INT TERM HUP; sleep {marker}; :' &) ; exit 3"
    with guarded("sh", "-c", script) as running:
        report = running.report()
    assert report["exit"] == 3
    assert report["leftovers"] >= 2
    assert with_marker(marker) == []


def test_a_stop_interrupts_the_child_first_and_lets_it_say_how_it_ends() -> None:
    script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.01; done"
    with guarded("sh", "-c", script, stdout=subprocess.PIPE) as running:
        assert running.process.stdout is not None
        assert running.process.stdout.readline() == b"ready\n"
        running.order(b"s")
        assert running.report()["exit"] == 9
        running.process.stdout.close()


def test_a_stop_kills_every_descendant_that_does_not_heed_the_interrupt(marker: str) -> None:
    script = f"trap '' INT; setsid sleep {marker} & (sleep {marker} &) ; sleep {marker}"
    with guarded("sh", "-c", script, grace_sec=0.05) as running:
        until(lambda: len(with_marker(marker)) == 3)
        running.order(b"s")
        assert running.report()["signal"] == signal.SIGKILL
    assert with_marker(marker) == []


def test_an_order_to_kill_leaves_out_the_grace(marker: str) -> None:
    with guarded("sh", "-c", f"trap '' INT; sleep {marker}", grace_sec=10_000) as running:
        until(lambda: with_marker(marker))
        running.order(b"s")
        running.order(b"k")
        assert running.report()["signal"] == signal.SIGKILL
    assert with_marker(marker) == []


def test_the_death_of_the_worker_stops_the_child(marker: str) -> None:
    with guarded("sh", "-c", f"setsid sleep {marker} & sleep {marker}") as running:
        until(lambda: len(with_marker(marker)) == 2)
        os.close(running.control)
        assert running.report()["signal"] == signal.SIGINT
    assert with_marker(marker) == []


def test_a_program_that_goes_on_in_ever_new_processes_does_not_get_away(marker: str, tmp_path: Path) -> None:
    # Each process starts its successor and ends. Without a guardian this lasts for a second or more, then leaves a file.
    code = "import os,sys\nfor _ in range(3000):\n if os.fork(): os._exit(0)\n os.setsid()\nopen(sys.argv[1], 'w')"
    with guarded(sys.executable, "-I", "-S", "-c", code, str(tmp_path / "end"), marker, grace_sec=0) as running:
        report = running.report()
    assert report["exit"] == 0
    assert report["leftovers"] >= 1
    assert with_marker(marker) == []
    assert not (tmp_path / "end").exists()


def test_a_program_that_doubles_itself_does_not_get_away(marker: str) -> None:
    code = "import os,time\nfor _ in range(8): os.fork()\nprint(flush=True)\ntime.sleep(300)"
    with guarded(sys.executable, "-I", "-S", "-c", code, marker, grace_sec=0, stdout=subprocess.PIPE) as running:
        assert running.process.stdout is not None
        running.process.stdout.readline()
        running.order(b"s")
        report = running.report()
        running.process.stdout.close()
    assert report["leftovers"] > 1
    assert with_marker(marker) == []


def test_signals_of_a_terminal_do_not_reach_the_guardian_or_the_child(marker: str) -> None:
    with guarded("sleep", marker) as running:
        until(lambda: with_marker(marker))
        child = psutil.Process(with_marker(marker)[0])
        assert os.getsid(running.process.pid) == running.process.pid
        assert os.getsid(child.pid) == child.pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            running.process.send_signal(number)
        running.order(b"s")
        assert running.report()["signal"] == signal.SIGINT


@pytest.mark.skipif(sys.platform != "linux", reason="what the kernel does for this is Linux's")
def test_a_child_yields_to_the_worker_and_dies_with_its_guardian(marker: str) -> None:
    with guarded("sleep", marker) as running:
        until(lambda: with_marker(marker))
        child = psutil.Process(with_marker(marker)[0])
        assert child.nice() == os.nice(0) + guardian.NICENESS
        with open(f"/proc/{child.pid}/oom_score_adj") as file:  # noqa: PTH123
            assert file.read().strip() == guardian.OOM_SCORE_ADJ
        autogroup = Path(f"/proc/{child.pid}/autogroup")
        if autogroup.exists() and (said := autogroup.read_text()):
            assert said.endswith(f"nice {guardian.NICENESS}\n")
        running.process.kill()
        until(lambda: not with_marker(marker))


def test_the_child_gets_no_pipe_of_the_guardian() -> None:
    with guarded("ls", f"/proc/self/{'fd'}", stdout=subprocess.PIPE) as running:
        assert running.process.stdout is not None
        descriptors = running.process.stdout.read().split()
        running.process.stdout.close()
    assert len(descriptors) == 4  # the standard three, and the one by which ls reads the directory


def test_descendants_are_found_through_every_generation() -> None:
    assert descendants_of(1, {2: 1, 3: 2, 4: 3, 5: 9, 1: 0}) == {2, 3, 4}


def test_where_there_is_no_subreaper_the_table_of_ps_gives_tree_group_and_marker() -> None:
    table = """
      10     1    10 S    claude -p BLOOM_LEASE_ID=other
      11    10    11 S    the child BLOOM_LEASE_ID=mine
      12    11    12 S    a tool in a session of its own
      13     1    11 S    an orphan of the child's group
      14     1    14 S    an orphan with the marker BLOOM_LEASE_ID=mine HOME=/
      15    14    15 S    what it started
      16    11    16 Z    (a zombie)
      17     1    17 S    BLOOM_LEASE_ID=mine2
    """
    assert from_ps(table, 11, "BLOOM_LEASE_ID=mine") == {11, 12, 13, 14, 15}
