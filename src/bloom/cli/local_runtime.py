"""What `bloom up` runs: the PostgreSQL, the runtime, Membridge and the worker of one data directory, as one thing."""

import os
import platform
import re
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path

import httpx

from bloom.base.errors import BloomError, Unavailable
from bloom.base.settings import default_data_dir
from bloom.base.variables import is_secret, variables_of
from bloom.cli.listen_socket import open_listen_socket, url_of
from bloom.cli.local_membridge import KEY_FILE, admin_key, membridge_child, open_membridge_socket
from bloom.cli.supervisor import Child, Kept, Question, Signals, tail
from bloom.cli.terminal import clean_line, is_terminal, make_output_robust, short_duration
from bloom.cli.up_settings import UpSettings
from bloom.client.address import ENDPOINT_FILE, is_loopback
from bloom.db.data_dir import DataDirLock, write_atomically
from bloom.db.embedded import EmbeddedPostgres

# Generous: a small board that recovers after a power cut must come up, not be given up.
_POSTGRES_START_SEC = 600.0
_RUNTIME_START_SEC = 180.0
_WORKER_START_SEC = 3.0

# By when, after the signal, each is gone or killed: everything has to be within 5 seconds. A run that ignores SIGINT takes
# the worker 3 seconds; then it still hands the task back.
_WORKER_GONE_SEC = 3.5
_RUNTIME_GONE_SEC = 4.2
_POSTGRES_GONE_SEC = 4.7


class LocalRuntime:
    """Everything on one machine, in the foreground."""

    def __init__(self, settings: UpSettings, *, reload: bool = False) -> None:
        self._settings = settings
        self._reload = reload
        self._data_dir = settings.data_dir
        self._logs = self._data_dir / "logs"
        self._signals = Signals()
        self._postgres: EmbeddedPostgres | None = None
        self._runtime: Child | None = None
        self._membridge: Child | None = None
        self._membridge_url = settings.membridge_url
        self._worker: Child | None = None
        self._kept: list[Kept] = []
        self._decorated = is_terminal(sys.stdout) and "NO_COLOR" not in os.environ

    def run(self) -> int:
        """Start everything, keep it running until a signal, stop everything; returns the exit code.

        Effects: progress and the address on stdout, errors on stderr, the endpoint file while it runs. 0 after SIGINT,
        SIGTERM or SIGHUP: all children are gone within 5 seconds, at once after a second signal. 1 when the start
        failed.
        """
        make_output_robust()
        with self._signals, ExitStack() as held:
            try:
                self._start(held)
                while not self._signals.stops:
                    self._signals.wait(min(kept.tend() for kept in self._kept))
            except (BloomError, OSError) as error:
                if not self._signals.stops:
                    _show(error)
                    return 1
            finally:
                self._stop()
        return 0

    # Start: the parts in their order. A signal meanwhile surfaces as Unavailable (`interrupted`).

    def _start(self, held: ExitStack) -> None:
        self._say(self._bold(f"BLOOM Runtime {version('bloom-runtime')}"))
        listening = held.enter_context(open_listen_socket(self._settings))
        url = url_of(listening)
        # Who names a Membridge elsewhere gets none here, nor does development: it is not what is reloaded.
        runs_beside = self._membridge_url is None and not self._reload
        beside = held.enter_context(open_membridge_socket(self._settings)) if runs_beside else None
        database_url = self._start_database(held)
        self._logs.mkdir(mode=0o700, exist_ok=True)
        # Only this process holds the write end: when it dies, be it by kill -9, the children read end of file.
        lifeline, write_end = os.pipe()
        held.callback(os.close, lifeline)
        held.callback(os.close, write_end)
        environment = {"DATABASE_URL": database_url, "BLOOM_DATA_DIR": str(self._data_dir)}
        if beside is not None:
            environment |= self._start_membridge(database_url, beside, lifeline)
        self._start_runtime(environment, url, listening, lifeline)
        if self._membridge is not None:
            self._await_membridge(self._membridge)
        endpoint = self._data_dir / ENDPOINT_FILE
        write_atomically(endpoint, f"{url}\n")
        held.callback(endpoint.unlink, missing_ok=True)
        self._start_worker(url, lifeline)
        self._introduce(url)

    def _start_database(self, held: ExitStack) -> str:
        if self._settings.database_url is not None:
            lock = DataDirLock(self._data_dir)
            lock.acquire()
            held.callback(lock.release)
            self._step("PostgreSQL: the one that DATABASE_URL names")
            return self._settings.database_url.get_secret_value()
        postgres = EmbeddedPostgres(self._data_dir)

        def start() -> str:
            return postgres.start(timeout_sec=_POSTGRES_START_SEC, interrupted=lambda: self._signals.stops > 0)

        if not postgres.initialised:
            self._step("PostgreSQL: making its data directory (first start only)")
        began = time.monotonic()
        url = start()
        self._postgres = postgres
        self._step(f"PostgreSQL {postgres.major} started ({_since(began)})")
        self._kept.append(
            Kept(
                "PostgreSQL",
                start=start,
                alive=lambda: postgres.reachable,
                tell=self._step,
                ending=lambda: f"see {_shown(postgres.log)}",
            )
        )
        return url

    def _start_membridge(self, database_url: str, listening: socket.socket, lifeline: int) -> dict[str, str]:
        """Start it without waiting for it; the environment by which the runtime finds it."""
        key = admin_key(self._settings)
        fds = (listening.fileno(), lifeline)
        self._membridge = membridge_child(
            _bloom("membridge", "serve", "--fd", str(fds[0]), "--lifeline-fd", str(lifeline)),
            self._settings,
            database_url=database_url,
            key=key,
            log=self._logs / "membridge.log",
            pass_fds=fds,
        )
        self._membridge.start()
        self._membridge_url = url_of(listening)
        return {"MEMBRIDGE_SERVER_URL": self._membridge_url, "MEMBRIDGE_ADMIN_KEY": key}

    def _await_membridge(self, membridge: Child) -> None:
        began = time.monotonic()
        if not self._wait_for(
            lambda: self._get(f"{self._membridge_url}/health", 30) is not None, membridge, _RUNTIME_START_SEC
        ):
            raise _did_not_start("Membridge did not become healthy in time", membridge)
        self._step(f"Membridge started ({_since(began)})")
        self._keep("Membridge", membridge)

    def _start_runtime(self, environment: dict[str, str], url: str, listening: socket.socket, lifeline: int) -> None:
        processes = str(self._settings.processes)
        argv = _bloom(
            *("serve", "--processes", processes, "--fd", str(listening.fileno()), "--lifeline-fd", str(lifeline))
        )
        runtime = Child(
            "the runtime",
            [*argv, "--reload"] if self._reload else argv,
            environment=os.environ | environment,
            log=self._logs / "runtime.log",
            pass_fds=(listening.fileno(), lifeline),
        )
        began = time.monotonic()
        runtime.start()
        self._runtime = runtime
        if not self._wait_for(lambda: self._ask(url, "/health", 30) is not None, runtime, _RUNTIME_START_SEC):
            raise _did_not_start("the runtime did not become healthy in time", runtime)
        self._step(f"Runtime started ({_since(began)})")
        self._keep("Runtime", runtime)

    def _start_worker(self, url: str, lifeline: int) -> None:
        slots = self._settings.up_slots
        if slots == 0:
            self._step("No worker (BLOOM_UP_SLOTS=0)")
            return
        name = _worker_name()
        self._worker = Child(
            "the worker",
            _bloom(
                *("worker", "--runtime", url, "--name", name, "--slots", str(slots)),
                # At a stop runs are handed back at once: Ctrl-C does not wait for a model.
                *("--grace", "0", "--lifeline-fd", str(lifeline)),
            ),
            environment=self._worker_environment(),
            log=self._logs / "worker.log",
            pass_fds=(lifeline,),
        )
        heard_before = self._last_heard(url, name)

        def is_online() -> bool:
            return self._last_heard(url, name) not in (None, heard_before)

        self._worker.start()
        online = self._wait_for(is_online, self._worker, _WORKER_START_SEC)
        state = "online" if online else "starting"
        self._step(f"Worker {name} {state} ({slots} {'slot' if slots == 1 else 'slots'})")
        self._keep("Worker", self._worker)

    def _keep(self, name: str, child: Child) -> None:
        log = child.log
        self._kept.append(
            Kept(
                name,
                start=child.start,
                alive=lambda: child.alive,
                tell=self._step,
                ending=lambda: f"{child.ending}, see {log and _shown(log)}",
            )
        )

    def _wait_for(self, ask: Callable[[], bool], child: Child, timeout_sec: float) -> bool:
        """Wait until `ask` says yes; False after `timeout_sec`. Raises Unavailable when `child` dies or a signal comes."""
        deadline = time.monotonic() + timeout_sec
        with Question(ask) as question:
            while not question.answered_yes:
                if self._signals.stops:
                    raise Unavailable("the start was interrupted", code="interrupted")
                if not child.alive:
                    raise _did_not_start(f"{child.name} stopped while it started ({child.ending})", child)
                if time.monotonic() > deadline:
                    return False
                self._signals.wait(0.05)
        return True

    def _ask(self, url: str, path: str, timeout_sec: float) -> httpx.Response | None:
        """The runtime's answer to a GET, None when it has none or refuses; the socket listens before the runtime does."""
        key = self._settings.api_key
        headers = {} if key is None else {"X-Runtime-API-Key": key.get_secret_value()}
        return self._get(f"{url}/api/runtime{path}", timeout_sec, headers)

    def _get(self, url: str, timeout_sec: float, headers: dict[str, str] | None = None) -> httpx.Response | None:
        # This machine is reached without the environment's proxies.
        with suppress(httpx.HTTPError), httpx.Client(headers=headers, timeout=timeout_sec, trust_env=False) as client:
            answer = client.get(url)
            return answer if answer.is_success else None
        return None

    def _last_heard(self, url: str, worker_name: str) -> int | None:
        """When the runtime last heard of the worker (epoch milliseconds); None when it never did, or does not answer."""
        answer = self._ask(url, f"/workers/{worker_name}", _WORKER_START_SEC)
        return None if answer is None else answer.json().get("last_heartbeat")

    def _worker_environment(self) -> dict[str, str]:
        """The environment without the secrets of the runtime; its key under the name that a client knows."""
        # Nor does it listen, so that it has no use for a port either.
        left_out = {*_secret_variables(), "PORT", "BLOOM_RUNTIME_PORT", "MEMBRIDGE_PORT", "BLOOM_URL"}
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        if self._settings.api_key is not None:
            environment["BLOOM_API_KEY"] = self._settings.api_key.get_secret_value()
        return environment | {
            "BLOOM_DATA_DIR": str(self._data_dir),
            "BLOOM_WORKER_DIR": str(self._data_dir / "worker"),
        }

    # Stop

    def _stop(self) -> None:
        if self._signals.stops and self._kept:
            self._say("\nStopping ...")
        began = time.monotonic()
        self._stop_children([self._worker], began + _WORKER_GONE_SEC)
        self._stop_children([self._runtime, self._membridge], began + _RUNTIME_GONE_SEC)
        if self._postgres is not None:
            left_sec = began + _POSTGRES_GONE_SEC - time.monotonic()
            self._postgres.stop(timeout_sec=0.5 if self._signals.stops > 1 else max(left_sec, 0.5))
        if self._signals.stops:
            self._say(f"Stopped. Data is kept in {_shown(self._data_dir)}")

    def _stop_children(self, candidates: Sequence[Child | None], deadline: float) -> None:
        children = [child for child in candidates if child is not None]
        for child in children:
            child.ask_to_stop()
        while (
            any(child.alive for child in children)
            and self._signals.stops < 2
            and (left := deadline - time.monotonic()) > 0
        ):
            self._signals.wait(left)
        for child in children:
            child.kill()

    # What a person sees

    def _introduce(self, url: str) -> None:
        rows = [("Open", self._bold(url))]
        if self._worker is not None:
            # The worker judges by the same function, in the same PATH.
            from bloom.worker.config import CONFIG_FILE, load_worker_config
            from bloom.worker.executors.choice import choose_executor

            choice = choose_executor(load_worker_config(self._data_dir / "worker" / CONFIG_FILE))
            rows.append(("Executor", f"{choice.name}: {clean_line(choice.reason)}"))
        rows.append(("Try", f'{_command_for(self._data_dir, url)} task run "Say hello"'))
        if self._settings.api_key is not None:
            rows.append(("", "with RUNTIME_API_KEY set there as it is here"))
        if self._membridge_url is not None:
            # Without its scheme: there is one URL to open.
            shown = self._membridge_url.partition("://")[2]
            own = self._membridge is not None and self._settings.membridge_admin_key is None
            rows.append(("Membridge", f"{shown}, key in {_shown(self._data_dir / KEY_FILE)}" if own else shown))
        children = [self._runtime, self._membridge, self._worker, self._postgres]
        logs = [child.log for child in children if child is not None]
        rows.append(("Logs", ", ".join(_shown(log) for log in logs if log is not None)))
        self._say("")
        for name, text in rows:
            self._say(f"  {name:<10}{text}")
        self._say("\nCtrl-C stops; data is kept.")

    def _step(self, text: str) -> None:
        self._say(f"  {text}")

    def _bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._decorated else text

    def _say(self, text: str) -> None:
        # The terminal may be gone (SIGHUP): no reason not to stop in order.
        with suppress(OSError, ValueError):
            print(text, flush=True)


def _show(error: BloomError | OSError) -> None:
    """Write the error, what is known of it and the end of its log to stderr."""
    if isinstance(error, OSError):
        lines = [f"bloom: {error}"]
    else:
        lines = [f"bloom: {clean_line(error.message)}"]
        lines += [f"  {name}: {clean_line(str(value))}" for name, value in error.detail.items() if name != "log_from"]
        if (log := error.detail.get("log")) is not None:
            last = tail(Path(log), 15, since=error.detail.get("log_from", 0))
            lines += [f"  | {clean_line(line)}" for line in last]
    with suppress(OSError, ValueError):
        print("\n".join(lines), file=sys.stderr, flush=True)


def _did_not_start(message: str, child: Child) -> Unavailable:
    return Unavailable(message, code="start_failed", log=str(child.log), log_from=child.log_start)


def _bloom(*arguments: str) -> list[str]:
    # -P: a directory `bloom` in the working directory is not this program.
    return [sys.executable, "-P", "-m", "bloom", *arguments]


def _worker_name() -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", platform.node()).strip("-")[:128] or "worker"


def _secret_variables() -> set[str]:
    """The environment variables that only the runtime may see."""
    secret = (field for field in UpSettings.model_fields.values() if is_secret(field))
    return {name for field in secret for name in variables_of(field)}


def _command_for(data_dir: Path, url: str) -> str:
    """How to call this very `bloom` from another terminal in the same directory, for this data directory."""
    program = Path(sys.executable).with_name("bloom")
    shown = _shown(program)
    call = shown if os.sep in shown else f".{os.sep}{shown}"
    # The client takes another machine's address only from a data directory that was named to it.
    needless = data_dir == default_data_dir() and is_loopback(url)
    return call if needless else f"BLOOM_DATA_DIR={_shown(data_dir)} {call}"


def _shown(path: Path) -> str:
    """`path` as a shell takes it, relative when it lies below the working directory."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _since(began: float) -> str:
    return short_duration(time.monotonic() - began)
