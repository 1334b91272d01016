"""The `command` executor: any program that reads the prompt on stdin and writes its answer to stdout."""

import asyncio
import codecs
import errno
import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from bloom.worker.child import Child, Exit, running_child
from bloom.worker.config import AgentSettings, WorkerConfig
from bloom.worker.executors.environment import child_environment, of_task, secrets_in
from bloom.worker.executors.growing_output import GrowingOutput, TooMuchOutput
from bloom.worker.executors.interface import Emit, Report, RunEvent, RunTask, StopSignal
from bloom.worker.executors.json_answer import COMPLAINT, json_answer
from bloom.worker.executors.json_file import is_json_file
from bloom.worker.executors.narration import Narration
from bloom.worker.executors.supervision import failure, stopped_report, supervise, told
from bloom.worker.executors.telling import tail
from bloom.worker.workspace import Workspace

DEMO = (sys.executable, "-m", "bloom.worker.executors.demo")
"""What runs where worker.toml names no command."""


class CommandExecutor:
    """Runs tasks by the program that worker.toml names, or by the built-in demo.

    The program gets BLOOM_TASK_ID, BLOOM_CONTEXT_ID, BLOOM_AGENT_SLUG, BLOOM_DESIRED_FORMAT and BLOOM_REQUEST_ID. Exit status
    0 is success, whatever was written to stderr. Its output is told as it comes, up to 8 MiB; what is longer goes to the disk.
    """

    name = "command"

    def __init__(self, config: WorkerConfig, workspace: Workspace, environment: Mapping[str, str]) -> None:
        """`environment` is what the worker itself was given; a child gets the listed part of it."""
        self._config = config
        self._workspace = workspace
        self._environment = environment
        self._argv = config.command.argv or list(DEMO)

    async def run(self, task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        """See `Executor.run`."""
        started = time.monotonic()
        narration = Narration(emit)
        report = await self._run(task, narration, stop, started + task.timeout_sec)
        metrics: dict[str, Any] = {"duration_ms": round((time.monotonic() - started) * 1000), "tokens_used": None}
        report.metrics.update(metrics)
        return await told(report, narration, stop)

    async def _run(self, task: RunTask, narration: Narration, stop: StopSignal, deadline: float) -> Report:
        if stop.reason is not None:
            return stopped_report(task, stop, {})
        agent = self._config.agent(task.agent_slug)
        try:
            directory = self._workspace.working_directory(task.context_id, agent.working_directory)
        except OSError as error:
            message = f"The worker cannot use the working directory of this task ({error.strerror})."
            return failure("workspace_failed", message, {}, retryable=True)
        environment = self._child_environment(task, agent)
        program = shutil.which(self._argv[0], path=environment.get("PATH"))
        if program is None:
            return _not_started(errno.ENOENT)
        output = GrowingOutput(task.output_path)
        running = running_child(
            [program, *self._argv[1:]],
            env=environment,
            cwd=directory,
            lease_id=task.lease_id,
            stdin=task.prompt.encode(errors="replace"),
            grace_sec=self._config.stop_grace_sec,
        )
        try:
            async with AsyncExitStack() as stack:
                try:
                    child = await stack.enter_async_context(running)
                except OSError as error:
                    return _not_started(error.errno or errno.EIO)
                stopped = await supervise(child, _read(child, output, narration), deadline, stop)
                ended = await child.wait()
                stderr = child.stderr_tail
        except TooMuchOutput as error:
            message = f"The command wrote more than {error.args[0] // 1024 // 1024} MiB, and was ended."
            return failure("output_too_large", message, {})
        except _DiskFull as error:
            return _not_kept(str(error))
        finally:
            output.close()
        if stopped and ended.code != 0:
            return stopped_report(task, stop, {})
        return await self._report(task, ended, output, tail(stderr, secrets_in(environment)))

    def _child_environment(self, task: RunTask, agent: AgentSettings) -> dict[str, str]:
        return child_environment(self._environment, pass_env=self._config.pass_env, extra=agent.env) | of_task(task)

    async def _report(self, task: RunTask, ended: Exit, output: GrowingOutput, stderr: str) -> Report:
        metrics = {"leftovers_killed": ended.leftovers} if ended.leftovers else {}
        if ended.errno is not None:
            return _not_started(ended.errno)
        if ended.code is None:
            message = f"The command was ended from outside (signal {ended.signal})."
            return failure("interrupted", message, metrics, retryable=True)
        if ended.code != 0:
            said = f" It says: {stderr}" if stderr else ""
            return failure("command_failed", f"The command ended with exit status {ended.code}.{said}", metrics)
        if output.broken is not None:
            return _not_kept(output.broken)
        if output.path is not None:
            if task.desired_format == "json" and not await asyncio.to_thread(is_json_file, output.path):
                return failure("invalid_json", COMPLAINT, metrics, retryable=True)
            if output.replaced:
                metrics["replaced_characters"] = output.replaced
            return Report("success", None, metrics=dict[str, Any](metrics), output_path=output.path)
        text = output.text
        if task.desired_format == "json":
            answer = json_answer(text)
            if answer is None:
                return failure("invalid_json", COMPLAINT, metrics, retryable=True)
            text = answer
        return Report("success", text, metrics=dict[str, Any](metrics))


def _not_started(number: int) -> Report:
    message = f"The command in worker.toml could not be started on this worker ({os.strerror(number)})."
    return failure("command_missing", message, {})


def _not_kept(reason: str | None) -> Report:
    return failure("output_not_kept", f"The worker's disk does not take the output ({reason}).", {}, retryable=True)


class _DiskFull(Exception):
    """The disk does not take the output. The argument is the reason."""


async def _read(child: Child, output: GrowingOutput, narration: Narration) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while True:
        chunk = await child.read(narration.due_in())
        if chunk is None:
            await narration.flush()
            continue
        text = decoder.decode(chunk, final=not chunk)
        was_short = output.path is None
        try:
            await output.add(text)
        except OSError as error:
            raise _DiskFull(error.strerror) from None
        if output.path is None:
            await narration.text(text)
        elif was_short:
            await narration.event(RunEvent("status", {"state": "output_continues_unseen"}))
        if not chunk:
            await narration.flush()
            return
