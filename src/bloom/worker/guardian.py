"""The guardian: a small process above each child that ends all its descendants, whatever becomes of the worker.

    python -I -S guardian.py CONTROL_FD STATUS_FD GRACE_SEC PROGRAM [ARGUMENT...]

Control is the read end of a pipe whose other end the worker holds. A byte `s`, or end of file (the worker died, even by
SIGKILL), stops the child: SIGINT to its process group, GRACE_SEC seconds to end by itself, then SIGKILL to every
descendant, again and again until none is left; only then the guardian exits. A byte `k` leaves the grace out. When the
child ends by itself, what it left behind is killed at once.

Status receives one line of JSON at the end: {"exit": n} or {"signal": n}, with "leftovers" (descendants that outlived
the child and were killed) and "refused" (descendants of another user, which we may not kill); or {"errno": n} when the
program could not be started, and neither when the child itself refuses to be killed. A guardian that was killed writes
nothing.

What holds where:
- Linux: the guardian is a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), so each descendant stays below it, those
  in sessions of their own and double-forked ones too, and waitpid's ECHILD proves that none is left. The child dies
  with the guardian (PR_SET_PDEATHSIG); its descendants then carry BLOOM_LEASE_ID in their environment, by which
  `bloom.worker.child.find_strays` finds them.
- macOS has no subreaper: descendants are found by parent, by the child's process group and by BLOOM_LEASE_ID in what
  `ps -E` shows. One that left the group, outlived its parent and changed its environment is not found.

Only the standard library, and little of it: there is one such process for each running task, and contextlib,
collections and pathlib alone would cost it 2 MB.
"""
# ruff: noqa: SIM105, PTH123, PTH208

import errno
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
NICENESS = 5
OOM_SCORE_ADJ = "500"

_ROUND_SEC = 0.02
_BLIND_ROUNDS = 250
"""So many rounds without a single visible descendant, and without ECHILD either, mean that /proc hides one."""

_FREEZE_ROUNDS = 200
"""After so many, kill what could not be frozen: it may be waiting for a disk."""

_REAP_AT_ONCE = 256
_DEAD = (b"Z", b"X")
_FROZEN = (b"T", b"t")


def _prctl(option: int, argument: int) -> bool:
    if sys.platform != "linux":
        return False
    import ctypes

    return ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) == 0


def descendants_of(root: int, parents: dict[int, int]) -> set[int]:
    """All processes below `root`, by a table of process → parent."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        fresh = [pid for pid in children.get(waiting.pop(), ()) if pid not in found]
        found.update(fresh)
        waiting.extend(fresh)
    return found - {root}


def _look_at(pid: int) -> tuple[int, bytes, bytes] | None:
    """Parent, state and start time of a process, by proc(5); None when there is none."""
    try:
        stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return None
    try:
        fields = os.read(stat, 1024).rpartition(b")")[2].split()
        return int(fields[1]), fields[0], fields[19]
    except (OSError, IndexError):
        return None  # it ended meanwhile
    finally:
        os.close(stat)


def _descendants() -> dict[int, tuple[bytes, bytes]]:
    """State and start time of every process below this one, zombies aside."""
    seen: dict[int, tuple[int, bytes, bytes]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _look_at(int(name))) is not None:
            seen[int(name)] = found
    below = descendants_of(os.getpid(), {pid: parent for pid, (parent, _, _) in seen.items()})
    return {pid: seen[pid][1:] for pid in below if seen[pid][1] not in _DEAD}


def _children() -> dict[int, tuple[bytes, bytes]]:
    """The same of the direct children only, in a fraction of the time where the kernel lists them."""
    try:
        listing = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
    except OSError:
        return {}
    try:
        pids = [int(pid) for pid in os.read(listing, 65536).split()]
    finally:
        os.close(listing)
    looks = {pid: _look_at(pid) for pid in pids}
    return {pid: look[1:] for pid, look in looks.items() if look is not None and look[1] not in _DEAD}


def _send(pid: int, started: bytes, number: int) -> bool:
    """Signal the process that was seen, never another that has got its id since. Returns whether it refuses."""
    try:
        handle = os.pidfd_open(pid) if sys.platform == "linux" and hasattr(os, "pidfd_open") else -1
    except ProcessLookupError:
        return False
    except OSError:
        handle = -1  # before Linux 5.3
    try:
        look = _look_at(pid)
        if look is None or look[2] != started:
            return False
        if handle < 0:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    finally:
        if handle >= 0:
            os.close(handle)
    return False


def from_ps(table: str, child: int, marker: str) -> set[int]:
    """The child and its descendants in the output of `ps -axww -E -o pid=,ppid=,pgid=,stat=,command=`."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    for line in table.splitlines():
        fields = line.split(None, 4)
        if len(fields) < 4 or fields[3].startswith("Z"):
            continue
        pid, parent, group = map(int, fields[:3])
        parents[pid] = parent
        if pid == child or group == child or (marker and marker in fields[-1].split()):
            found.add(pid)
    for pid in tuple(found):
        found |= descendants_of(pid, parents)
    return found - {os.getpid()}


def _read_ps() -> str:
    import subprocess

    done = subprocess.run(
        ["ps", "-axww", "-E", "-o", "pid=,ppid=,pgid=,stat=,command="], capture_output=True, check=False
    )
    return done.stdout.decode(errors="replace")


def _yield_precedence() -> None:
    """Let the worker go first, and the kernel take this process first when memory runs out.

    Where Linux shares the processor among sessions (sched(7), autogroup) a process's niceness counts inside its session
    only, so that of the session is set too.
    """
    os.nice(NICENESS)
    for path, value in (("/proc/self/oom_score_adj", OOM_SCORE_ADJ), ("/proc/self/autogroup", str(NICENESS))):
        try:
            with open(path, "w") as file:
                file.write(value)
        except OSError:
            pass  # a courtesy where it is possible


class Guardian:
    """The loop around one child. Must be the only thread of its process."""

    def __init__(self, control: int, status: int, grace_sec: float) -> None:
        self._control = control
        self._status = status
        self._grace_sec = grace_sec
        self._child = 0
        self._outcome: int | None = None
        self._childless = False
        self._subreaper = _prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._wake, self._alarm = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._alarm, False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)

    def run(self, argv: list[str]) -> None:
        """Start `argv`, wait for its end or for a stop, end every descendant, and report."""
        if sys.platform == "linux" and not self._subreaper:
            self._report(f'{{"errno": {errno.ENOSYS}}}')  # without it a descendant could get away
            return
        failure = self._launch(argv)
        if failure:
            self._report(f'{{"errno": {failure}}}')
            return
        self._await_end()
        killed, refused = self._end_all()
        leftovers = len(killed - {self._child})
        ending = f'"leftovers": {leftovers}, "refused": {len(refused)}'
        if self._outcome is not None:
            code = os.waitstatus_to_exitcode(self._outcome)
            ending = f'"signal": {-code}, {ending}' if code < 0 else f'"exit": {code}, {ending}'
        self._report(f"{{{ending}}}")

    def _report(self, line: str) -> None:
        try:
            os.write(self._status, f"{line}\n".encode())
        except OSError:
            pass  # the worker is gone

    def _launch(self, argv: list[str]) -> int:
        """Start the child; returns 0, or the errno for which it could not be started."""
        failure, report = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            self._become(argv, report)
        os.close(report)
        said = os.read(failure, 16)  # end of file: execve closed the other end
        os.close(failure)
        # The pipes belong to the child alone, or the worker would never read their end.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.close(null)
        return int(said or b"0")

    def _become(self, argv: list[str], report: int) -> None:
        try:
            os.setsid()
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            if hasattr(signal, "SIGXFSZ"):
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            _yield_precedence()
            os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted
        except OSError as error:
            os.write(report, str(error.errno).encode())
        finally:
            os._exit(127)

    def _await_end(self) -> None:
        """Return when the child ended, or has to be killed now."""
        deadline: float | None = None
        watched = [self._control, self._wake]
        while True:
            self._reap()
            patience = None if deadline is None else deadline - time.monotonic()
            if self._outcome is not None or (patience is not None and patience <= 0):
                return
            ready, _, _ = select.select(watched, [], [], patience)
            self._drain_wake()
            if self._control in ready:
                order = os.read(self._control, 64)
                if not order:
                    watched.remove(self._control)
                if b"k" in order:
                    return
                if deadline is None:
                    deadline = time.monotonic() + self._grace_sec
                    self._interrupt()

    def _interrupt(self) -> None:
        try:
            os.killpg(self._child, signal.SIGINT)
        except (ProcessLookupError, PermissionError):
            pass  # it ended, or is another user's: the grace decides

    def _drain_wake(self) -> None:
        try:
            while os.read(self._wake, 256):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        """Take note of what has ended; of so much at once that a program which forks for ever cannot hold us here."""
        for _ in range(_REAP_AT_ONCE):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._child:
                self._outcome = status

    def _end_all(self) -> tuple[set[int], set[int]]:
        """Kill every descendant until none is left. Returns those killed and those that refuse."""
        killed: set[int] = set()
        refused: set[int] = set()
        blind = 0
        while True:
            self._reap()
            if self._childless and self._subreaper:
                break
            present = self._freeze() if self._subreaper else self._by_ps()
            refused = {pid for pid, (_, started) in present.items() if self._kill(pid, started)}
            killed |= present.keys() - refused
            blind = 0 if present else blind + 1
            nothing_left = not present and (not self._subreaper or blind > _BLIND_ROUNDS)
            if nothing_left or (present and len(refused) == len(present)):
                break
            select.select([self._wake], [], [], _ROUND_SEC)
            self._drain_wake()
        return killed, refused

    def _freeze(self) -> dict[int, tuple[bytes, bytes]]:
        """Stop (SIGSTOP) every descendant before any is killed, and return them.

        So a program that forks faster than it is killed does not get away; one whose every process starts its successor
        and ends, neither: each successor becomes our child at once, and children are looked up in microseconds.
        """
        present: dict[int, tuple[bytes, bytes]] = {}
        for _ in range(_FREEZE_ROUNDS):
            for _ in range(_FREEZE_ROUNDS):
                self._reap()
                if not _stop(_moving(_children())):
                    break
            present = _descendants()
            if not _stop(_moving(present)):
                break
        return present

    def _by_ps(self) -> dict[int, tuple[bytes, bytes]]:
        lease_id = os.environ.get("BLOOM_LEASE_ID")
        found = from_ps(_read_ps(), self._child, f"BLOOM_LEASE_ID={lease_id}" if lease_id else "")
        return dict.fromkeys(found, (b"", b""))

    def _kill(self, pid: int, started: bytes) -> bool:
        if self._subreaper:
            return _send(pid, started, signal.SIGKILL)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return False


def _moving(seen: dict[int, tuple[bytes, bytes]]) -> dict[int, bytes]:
    return {pid: started for pid, (state, started) in seen.items() if state not in _FROZEN}


def _stop(moving: dict[int, bytes]) -> bool:
    """Send SIGSTOP to each; returns whether any took it, so that another look is worth while."""
    refused = [_send(pid, started, signal.SIGSTOP) for pid, started in moving.items()]
    return not all(refused)


def main() -> None:
    """Read the command line described above and guard one child to its end."""
    control, status = int(sys.argv[1]), int(sys.argv[2])
    for pipe in (control, status):
        os.set_inheritable(pipe, False)
    # A terminal's Ctrl-C must not race with the worker's own, orderly stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        os.setsid()
    except PermissionError:
        pass  # it leads a session already
    Guardian(control, status, float(sys.argv[3])).run(sys.argv[4:])


if __name__ == "__main__":
    main()
