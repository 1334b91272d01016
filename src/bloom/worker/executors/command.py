"""The `command` executor: any program that reads the prompt on stdin and writes its answer to stdout."""

import codecs
import errno
import os
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from bloom.worker.child import Child, Exit, running_child
from bloom.worker.config import AgentSettings, WorkerConfig
from bloom.worker.executors.environment import child_environment, secrets_in
from bloom.worker.executors.interface import Emit, Report, RunTask, StopSignal
from bloom.worker.executors.json_answer import COMPLAINT, json_answer
from bloom.worker.executors.narration import Narration
from bloom.worker.executors.supervision import failure, stopped_report, supervise, told
from bloom.worker.executors.telling import tail
from bloom.worker.workspace import Workspace

DEMO = (sys.executable, "-m", "bloom.worker.executors.demo")
"""What runs where worker.toml names no command."""

MAX_OUTPUT_BYTES = 32 * 1024 * 1024


class _TooMuchOutput(Exception):
    """The program writes more than any completion can carry."""


class CommandExecutor:
    """Runs tasks by the program that worker.toml names, or by the built-in demo.

    The program gets BLOOM_TASK_ID, BLOOM_CONTEXT_ID, BLOOM_AGENT_SLUG and BLOOM_DESIRED_FORMAT. Exit status 0 is
    success, whatever was written to stderr.
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
        pieces: list[str] = []
        try:
            async with running_child(
                [program, *self._argv[1:]],
                env=environment,
                cwd=directory,
                lease_id=task.lease_id,
                stdin=task.prompt.encode(errors="replace"),
                grace_sec=self._config.stop_grace_sec,
            ) as child:
                stopped = await supervise(child, _read(child, pieces, narration), deadline, stop)
                ended = await child.wait()
                stderr = child.stderr_tail
        except _TooMuchOutput:
            message = f"The command wrote more than {MAX_OUTPUT_BYTES // 1024 // 1024} MiB, and was ended."
            return failure("output_too_large", message, {})
        except OSError as error:
            return _not_started(error.errno or errno.EIO)
        if stopped and ended.code != 0:
            return stopped_report(task, stop, {})
        return self._report(task, ended, "".join(pieces), tail(stderr, secrets_in(environment)))

    def _child_environment(self, task: RunTask, agent: AgentSettings) -> dict[str, str]:
        of_task = {
            "BLOOM_TASK_ID": task.task_id,
            "BLOOM_CONTEXT_ID": task.context_id,
            "BLOOM_AGENT_SLUG": task.agent_slug,
            "BLOOM_DESIRED_FORMAT": task.desired_format,
        }
        given = child_environment(self._environment, pass_env=self._config.pass_env, extra=agent.env)
        # An environment carries neither NUL nor a lone surrogate.
        return given | {
            name: value.encode(errors="replace").decode().replace("\x00", "") for name, value in of_task.items()
        }

    def _report(self, task: RunTask, ended: Exit, output: str, stderr: str) -> Report:
        metrics = {"leftovers_killed": ended.leftovers} if ended.leftovers else {}
        if ended.errno is not None:
            return _not_started(ended.errno)
        if ended.code is None:
            message = f"The command was ended from outside (signal {ended.signal})."
            return failure("interrupted", message, metrics, retryable=True)
        if ended.code != 0:
            said = f" It says: {stderr}" if stderr else ""
            return failure("command_failed", f"The command ended with exit status {ended.code}.{said}", metrics)
        if task.desired_format == "json":
            answer = json_answer(output)
            if answer is None:
                return failure("invalid_json", COMPLAINT, metrics, retryable=True)
            output = answer
        return Report("success", output, metrics=dict[str, Any](metrics))


def _not_started(number: int) -> Report:
    message = f"The command in worker.toml could not be started on this worker ({os.strerror(number)})."
    return failure("command_missing", message, {})


async def _read(child: Child, pieces: list[str], narration: Narration) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    size = 0
    while True:
        chunk = await child.read(narration.due_in())
        if chunk is None:
            await narration.flush()
            continue
        size += len(chunk)
        if size > MAX_OUTPUT_BYTES:
            raise _TooMuchOutput
        text = decoder.decode(chunk, final=not chunk)
        pieces.append(text)
        await narration.text(text)
        if not chunk:
            await narration.flush()
            return
