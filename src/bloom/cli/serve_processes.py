"""`bloom serve --processes N`: several runtimes behind one address, each a process with a listening socket of its own.

They share nothing but PostgreSQL: each is what another machine's replica would be. The kernel deals connections out among
the sockets (SO_REUSEPORT); this process holds them all, so that nobody is refused while a process is started again.
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

import httpx

from bloom.cli.exits import ExitCode
from bloom.cli.listen_socket import share_listen_socket, url_of
from bloom.cli.supervisor import Child, Kept, Question, Signals
from bloom.server.listening import refuse_new
from bloom.telemetry.metrics import MULTIPROCESS_DIR, forget_process

STOP_SEC = 4.0
"""By when, after the signal and the drain, all processes are gone or killed; each takes three seconds at most by itself."""


def serve_processes(
    listening: socket.socket, *, processes: int, lifeline: int | None, drain_sec: float, keeps_socket: bool
) -> int:
    """Run `processes` runtimes behind the address of `listening` until a signal, or until the pipe `lifeline` is closed.

    Returns the exit code: 0 after a signal; that of the first process when it stops before it serves (it has said why);
    otherwise one that dies is started again. After a signal they serve on for `drain_sec` seconds; then nobody can connect any
    more, unless the socket is that of another process (`keeps_socket`). Raises OSError when no further socket can be had.
    """
    with Signals() as signals, ExitStack() as held:
        # Only this process holds the write end: when it dies, be it by kill -9, the runtimes read end of file.
        read_end, write_end = os.pipe()
        for end in (read_end, write_end):
            held.callback(os.close, end)
        # Where they count for /metrics: whichever of them is asked tells of all.
        counts = held.enter_context(tempfile.TemporaryDirectory(prefix="bloom-counts-"))
        environment = {**os.environ, MULTIPROCESS_DIR: counts}
        runtimes: list[Child] = []
        sockets = [listening]
        try:
            first = _start(runtimes, 1, listening, read_end, environment)
            if (code := _until_it_serves(first, url_of(listening), signals, lifeline)) is not None:
                return code
            for number in range(2, processes + 1):
                sockets.append(held.enter_context(share_listen_socket(listening)))
                _start(runtimes, number, sockets[-1], read_end, environment)
            kept = [_kept(runtime, counts) for runtime in runtimes]
            while not signals.stops and signals.wait(min(one.tend() for one in kept), lifeline=lifeline):
                pass
        finally:
            _stop(runtimes, signals, drain_sec, () if keeps_socket else sockets)
    return 0


def _start(
    runtimes: list[Child], number: int, listening: socket.socket, lifeline: int, environment: Mapping[str, str]
) -> Child:
    options = ("--fd", str(listening.fileno()), "--lifeline-fd", str(lifeline), "--processes", "1")
    child = Child(
        f"process {number}",
        [sys.executable, "-P", "-m", "bloom", "serve", *options],
        environment=environment,
        log=None,
        pass_fds=(listening.fileno(), lifeline),
    )
    runtimes.append(child)
    child.start()
    return child


def _until_it_serves(child: Child, url: str, signals: Signals, lifeline: int | None) -> int | None:
    """None as soon as it answers; before that the exit code with which all ends."""

    def answers() -> bool:
        # Any answer will do: a database that is away is no reason not to serve.
        with suppress(httpx.HTTPError), httpx.Client(timeout=30, trust_env=False) as client:
            return client.get(f"{url}/api/runtime/health").status_code > 0
        return False

    with Question(answers) as question:
        while not question.answered_yes:
            if not signals.wait(0.05, lifeline=lifeline) or signals.stops:
                return ExitCode.DONE
            if (code := child.exit_code) is not None:
                return code if code >= 0 else ExitCode.FAILED
    return None


def _kept(runtime: Child, counts: str) -> Kept:
    def start_again() -> None:
        if runtime.pid is not None:
            forget_process(runtime.pid, counts)
        runtime.start()

    return Kept(
        runtime.name,
        start=start_again,
        alive=lambda: runtime.alive,
        tell=lambda text: print(f"bloom: {text}", file=sys.stderr, flush=True),
        ending=lambda: runtime.ending,
    )


def _stop(runtimes: list[Child], signals: Signals, drain_sec: float, sockets: Sequence[socket.socket]) -> None:
    for runtime in runtimes:
        runtime.ask_to_stop()
    drained = time.monotonic() + drain_sec
    _until_gone(runtimes, signals, drained)
    if drain_sec:
        for each in sockets:
            refuse_new(each)
    _until_gone(runtimes, signals, drained + STOP_SEC)
    for runtime in runtimes:
        runtime.kill()


def _until_gone(runtimes: list[Child], signals: Signals, deadline: float) -> None:
    """Return when all are gone, at `deadline`, or at a second signal."""
    while (
        any(runtime.alive for runtime in runtimes) and signals.stops < 2 and (left := deadline - time.monotonic()) > 0
    ):
        signals.wait(left)
