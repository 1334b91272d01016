"""The worker daemon as a process: its directory, its executor, its signals. What it does is in `bloom.worker.work`."""

import asyncio
import logging
import shutil
from dataclasses import replace

from bloom.base.errors import ConfigurationError
from bloom.base.logging import configure_logging
from bloom.base.settings import ProcessSettings, load
from bloom.telemetry.tracing import begin_tracing, end_tracing
from bloom.worker.config import CONFIG_FILE, LimitSettings, load_worker_config
from bloom.worker.executors.choice import build_executor, choose_executor
from bloom.worker.executors.interface import Executor
from bloom.worker.options import WorkerOptions, worker_dir
from bloom.worker.sole import sole_daemon
from bloom.worker.stopping import stop_with_parent, stopping_on_signals
from bloom.worker.work import serve

log = logging.getLogger("bloom.worker")

MAX_SLOTS = 32


def run_worker(options: WorkerOptions) -> int:
    """Run the daemon until it is told to stop; returns the exit code of the process.

    Raises ConfigurationError when the options cannot work or another daemon uses this worker directory, and
    RuntimeRefused when the runtime does not want a worker like this.
    """
    settings = load(ProcessSettings)
    if not logging.getLogger().handlers:
        configure_logging(settings)
    if not 1 <= options.slots <= MAX_SLOTS:
        raise ConfigurationError(f"a worker has 1 to {MAX_SLOTS} slots")
    directory = worker_dir()
    with sole_daemon(directory):
        if options.config is not None and not options.config.is_file():
            raise ConfigurationError(f"there is no config file {options.config.name}")
        config = load_worker_config(options.config or directory / CONFIG_FILE)
        name, why = options.executor, "as asked for"
        if name == "auto":
            choice = choose_executor(config)
            name, why = choice.name, choice.reason
        elif name == "claude" and shutil.which(config.claude.path) is None:
            raise ConfigurationError(
                f"there is no {config.claude.path!r} on PATH: install the Claude CLI, or name its path in worker.toml"
            )
        options = replace(options, executor=name)
        executor = build_executor(config, directory / "workspaces", name)
        begin_tracing(settings.otlp_endpoint, "bloom-worker")
        try:
            return asyncio.run(_serve(options, executor, why, config.limits))
        finally:
            end_tracing()


async def _serve(options: WorkerOptions, executor: Executor, why: str, limits: LimitSettings) -> int:
    with stopping_on_signals() as stopping:
        watching = None
        if options.lifeline_fd is not None:
            watching = asyncio.create_task(stop_with_parent(options.lifeline_fd, stopping))
        companion = asyncio.create_task(_run_beside(options, stopping.asked))
        try:
            await serve(options, executor, why, stopping, limits=limits)
            await asyncio.wait({companion}, timeout=options.pace.farewell_sec)
        finally:
            for task in (watching, companion):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})
    return 0


async def _run_beside(options: WorkerOptions, stopping: asyncio.Event) -> None:
    """What goes wrong in there is logged: the worker's tasks do not depend on it."""
    try:
        if options.beside is not None:
            await options.beside(options, stopping)
    except Exception:
        log.exception("what runs beside the worker has failed; the worker goes on without it")
