"""The `claude` executor: one run of the Claude CLI per task, one session per context."""

import asyncio
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bloom.worker.child import Child, Exit, running_child
from bloom.worker.config import AgentSettings, WorkerConfig
from bloom.worker.executors.claude_errors import Verdict, judge, message_is_lost, session_is_lost
from bloom.worker.executors.claude_login import SharedLogin, refreshing_alone
from bloom.worker.executors.claude_metrics import metrics_of
from bloom.worker.executors.claude_prompt import compose_prompt
from bloom.worker.executors.claude_sessions import SessionPlan, Sessions
from bloom.worker.executors.claude_stream import StreamDecoder
from bloom.worker.executors.claude_transcript import Transcript
from bloom.worker.executors.environment import CLAUDE, child_environment, of_task, secrets_in
from bloom.worker.executors.interface import Emit, Report, RunEvent, RunTask, StopSignal
from bloom.worker.executors.json_answer import COMPLAINT, INSTRUCTION, json_answer
from bloom.worker.executors.narration import Narration
from bloom.worker.executors.supervision import failure, stopped_report, supervise, told
from bloom.worker.executors.telling import tail
from bloom.worker.workspace import Workspace

log = logging.getLogger("bloom.worker")

_STREAMING = ("-p", "--output-format", "stream-json", "--verbose", "--include-partial-messages")
_LARGEST_API_TIMEOUT_MS = 600_000
_SMALLEST_BUDGET_USD = 0.000001


@dataclass
class _Run:
    """One start of the CLI and what came of it."""

    plan: SessionPlan
    transcript: Transcript = field(default_factory=Transcript)
    decoder: StreamDecoder = field(default_factory=StreamDecoder)
    ended: Exit = field(default_factory=Exit)
    stderr: str = ""
    stopped: bool = False


class ClaudeExecutor:
    """Runs tasks by the Claude CLI. One per worker: it knows which of its runs write which session."""

    name = "claude"

    def __init__(self, config: WorkerConfig, workspace: Workspace, environment: Mapping[str, str]) -> None:
        """`environment` is what the worker itself was given; a child gets the listed part of it."""
        self._config = config
        self._workspace = workspace
        self._environment = environment
        self._sessions = Sessions(workspace.sessions)

    async def run(self, task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        """See `Executor.run`."""
        started = time.monotonic()
        narration = Narration(emit)
        report = await self._run(task, narration, stop)
        report.metrics["duration_ms"] = round((time.monotonic() - started) * 1000)
        return await told(report, narration, stop)

    async def _run(self, task: RunTask, narration: Narration, stop: StopSignal) -> Report:
        if stop.reason is not None:
            return stopped_report(task, stop, {"tokens_used": None})
        agent = self._config.agent(task.agent_slug)
        program = shutil.which(self._config.claude.path, path=self._environment.get("PATH"))
        if program is None:
            message = "There is no Claude CLI on this worker: install it, or name its path in worker.toml."
            return failure("cli_missing", message, {"tokens_used": None}, retryable=True)
        try:
            directory = self._workspace.working_directory(task.context_id, agent.working_directory)
        except OSError as error:
            message = f"The worker cannot use the working directory of this task ({error.strerror})."
            return failure("workspace_failed", message, {"tokens_used": None}, retryable=True)
        environment = self._child_environment(task, agent)
        prompt, neutralised = await asyncio.to_thread(
            compose_prompt, task.prompt, task.context_hints, directory, environment.get("HOME")
        )
        if neutralised:
            status = {"state": "mentions_neutralised", "count": neutralised}
            await narration.event(RunEvent("status", status))

        async def on_wait() -> None:
            await narration.event(RunEvent("status", {"state": "waiting_for_login"}))

        login = SharedLogin.of(environment)
        async with refreshing_alone(login, task.timeout_sec, stop, on_wait):
            if stop.reason is not None:
                return stopped_report(task, stop, {"tokens_used": None})
            deadline = time.monotonic() + task.timeout_sec
            start = _Start(task, agent, program, directory, prompt.encode(errors="replace"), deadline)
            return await self._run_session(start, narration, stop)

    async def _run_session(self, start: "_Start", narration: Narration, stop: StopSignal) -> Report:
        task, directory = start.task, start.directory
        with self._sessions.planned(task.context_id, directory) as plan:
            run = await self._start(start, plan, narration, stop)
            while (instead := _second_best(run)) is not None:
                if instead.session_id is None:
                    await narration.event(RunEvent("status", {"state": "new_session", "lost": plan.session_id}))
                run = await self._start(start, instead, narration, stop)
            report = self._report(start, run, stop)
            if report.status == "success":
                self._remember(task, directory, run.transcript)
        return report

    async def _start(self, start: "_Start", plan: SessionPlan, narration: Narration, stop: StopSignal) -> _Run:
        run = _Run(plan)
        async with AsyncExitStack() as stack:
            try:
                running = running_child(
                    start.argv(self._config.claude.args, plan),
                    env=self._child_environment(start.task, start.agent),
                    cwd=start.directory,
                    lease_id=start.task.lease_id,
                    stdin=start.prompt,
                    grace_sec=self._config.stop_grace_sec,
                    output_dir=self._workspace.output_directory(),
                )
                child = await stack.enter_async_context(running)
            except OSError as error:
                run.ended = Exit(errno=error.errno or errno.EIO)
            else:
                run.stopped = await supervise(child, _read(child, run, narration), start.deadline, stop)
                run.ended = await child.wait()
                run.stderr = child.stderr_tail
        if run.ended.errno is not None:
            run.stderr = os.strerror(run.ended.errno)
        return run

    def _child_environment(self, task: RunTask, agent: AgentSettings) -> dict[str, str]:
        """The owner's variables, and what keeps the CLI's own retries short: long ones are the runtime's."""
        given = child_environment(self._environment, pass_env=(*CLAUDE, *self._config.pass_env), extra=agent.env)
        return {
            "DISABLE_AUTOUPDATER": "1",
            "CLAUDE_CODE_MAX_RETRIES": "2",
            "API_TIMEOUT_MS": str(min(task.timeout_sec * 1000, _LARGEST_API_TIMEOUT_MS)),
            **given,
            **of_task(task),
        }

    def _report(self, start: "_Start", run: _Run, stop: StopSignal) -> Report:
        metrics = metrics_of(run.transcript, resumed=run.plan.session_id is not None, forked=run.plan.fork)
        if run.decoder.garbage_lines:
            metrics["garbage_lines"] = run.decoder.garbage_lines
        if run.ended.leftovers:
            metrics["leftovers_killed"] = run.ended.leftovers
        verdict = judge(run.transcript, run.ended, run.stderr)
        if run.stopped and verdict is not None:
            return stopped_report(start.task, stop, metrics, _last_trouble(run.transcript))
        if verdict is not None:
            return self._failure(start, verdict, metrics)
        output = run.transcript.output
        if start.task.desired_format == "json":
            answer = json_answer(output)
            if answer is None:
                return failure("invalid_json", COMPLAINT, metrics, retryable=True)
            output = answer
        return Report("success", output, metrics=metrics)

    def _failure(self, start: "_Start", verdict: Verdict, metrics: Mapping[str, Any]) -> Report:
        said = tail(verdict.detail, secrets_in(self._child_environment(start.task, start.agent)))
        message = f"{verdict.message} The CLI says: {said}" if said else verdict.message
        return failure(
            verdict.code,
            message,
            metrics,
            retryable=verdict.retryable,
            retry_after_sec=verdict.retry_after_sec,
        )

    def _remember(self, task: RunTask, directory: Path, transcript: Transcript) -> None:
        if transcript.session_id is None:
            return
        try:
            self._sessions.remember(task.context_id, directory, transcript.session_id, transcript.last_message_id)
        except OSError as error:
            # The answer is good; only the next task of the context will not know of it.
            log.warning("the session could not be remembered", extra={"task": task.task_id, "error": error.strerror})


@dataclass(frozen=True)
class _Start:
    """What a start of the CLI needs to know."""

    task: RunTask
    agent: AgentSettings
    program: str
    directory: Path
    prompt: bytes
    deadline: float

    def argv(self, args: list[str], plan: SessionPlan) -> list[str]:
        """The command line; the prompt is not in it but on stdin."""
        agent = self.agent
        argv = [self.program, *args, *_STREAMING]
        if agent.model is not None:
            argv.append(f"--model={agent.model}")
        wishes = [agent.append_system_prompt, INSTRUCTION if self.task.desired_format == "json" else None]
        if system_prompt := "\n\n".join(wish for wish in wishes if wish):
            argv.append(f"--append-system-prompt={system_prompt}")
        if agent.permission_mode is not None:
            argv.append(f"--permission-mode={agent.permission_mode}")
        if agent.max_turns is not None:
            argv.append(f"--max-turns={agent.max_turns}")
        if self.task.budget > 0:
            argv.append(f"--max-budget-usd={max(self.task.budget, _SMALLEST_BUDGET_USD):.6f}")
        if plan.session_id is not None:
            argv.append(f"--resume={plan.session_id}")
        if plan.message_id is not None:
            argv.append(f"--resume-session-at={plan.message_id}")
        if plan.fork:
            argv.append("--fork-session")
        # These two take as many words as follow, so they come last.
        if agent.allowed_tools:
            argv += ["--allowed-tools", *agent.allowed_tools]
        if agent.disallowed_tools:
            argv += ["--disallowed-tools", *agent.disallowed_tools]
        return argv


def _second_best(run: _Run) -> SessionPlan | None:
    """How to begin instead, when the CLI did not begin because there is not what it should go on from."""
    plan = run.plan
    if plan.session_id is None or run.stopped:
        return None
    if session_is_lost(run.transcript, run.stderr):
        return SessionPlan()
    if plan.message_id is not None and message_is_lost(run.transcript, run.stderr):
        return SessionPlan(plan.session_id, plan.fork)
    return None


async def _read(child: Child, run: _Run, narration: Narration) -> None:
    """Read the child's output to its end, telling what happens as it happens."""
    while True:
        chunk = await child.read(narration.due_in())
        if chunk is None:
            await narration.flush()
            continue
        lines = run.decoder.feed(chunk) if chunk else run.decoder.finish()
        for line in lines:
            for event in run.transcript.take(line):
                await _narrate(event, run, narration)
        if not chunk:
            await narration.flush()
            return


async def _narrate(event: RunEvent, run: _Run, narration: Narration) -> None:
    if event.type == "text" or event.type == "thinking":
        await narration.text(event.data["text"], event.type)
    elif event.data.get("state") == "started":
        plan = {"resumed": run.plan.session_id is not None, "forked": run.plan.fork}
        await narration.event(RunEvent("status", {**event.data, **plan}))
    else:
        await narration.event(event)


def _last_trouble(transcript: Transcript) -> str:
    """What the CLI was last retrying, so that a timeout tells its cause."""
    kind = re.sub(r"\W", " ", str(transcript.last_retry.get("error") or ""))
    status = transcript.last_retry.get("error_status")
    if not transcript.last_retry or transcript.output:
        return ""
    return f"The API had last answered {status} ({kind})." if status else f"The API had not answered ({kind})."
