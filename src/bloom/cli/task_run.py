"""`bloom task run` and `bloom task show --follow`: create a task once, follow it to its end."""

import asyncio
import hashlib
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bloom.base.errors import BloomError, InvalidInput
from bloom.base.ids import new_request_id
from bloom.base.text import is_storable
from bloom.cli.exits import ExitCode
from bloom.cli.follow import Pause, backoff, follow
from bloom.cli.progress import Progress
from bloom.cli.session import parse, parse_list, run_command
from bloom.cli.task_output import conclude
from bloom.cli.terminal import clean_line, is_terminal, print_json, short_duration
from bloom.client import RuntimeClient, RuntimeRefused, RuntimeUnreachable
from bloom.tasks.schemas import LLMTask
from bloom.workers.schemas import WorkerNode

CREATE_TRIES = 5
_LONGEST_ASKED_PAUSE_SEC = 60.0


@dataclass(frozen=True, slots=True)
class NewTask:
    """What a person asked for; None leaves the choice to the runtime (for `context`: a new one)."""

    prompt: str
    context: str | None
    agent: str
    hints: list[str]
    timeout_sec: int | None
    budget: float | None
    json_output: bool
    labels: list[str]
    priority: int | None
    max_attempts: int | None
    concurrency_key: str | None
    idempotency_key: str | None

    def to_wire(self) -> dict[str, Any]:
        """The body of POST /llm-tasks, with an idempotency key where none was given. Raises InvalidInput."""
        key = self.idempotency_key or new_request_id()
        # From the key, so that the same command again asks for the same task and not for another one under its key.
        context = self.context or f"cli-{hashlib.sha256(key.encode(errors='replace')).hexdigest()[:16]}"
        if self.budget is not None and not math.isfinite(self.budget):
            raise InvalidInput("--budget must be a number of US dollars")
        policy = {"timeout_sec": self.timeout_sec, "budget": self.budget}
        body: dict[str, Any] = {
            "context_id": context,
            "agent_slug": self.agent,
            "prompt": self.prompt,
            "context_hints": self.hints,
            "policy": {name: value for name, value in policy.items() if value is not None},
            "desired_format": "json" if self.json_output else "text",
            "labels": self.labels,
            "idempotency_key": key,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "concurrency_key": self.concurrency_key,
        }
        return {name: value for name, value in body.items() if value is not None}


def read_prompt(argument: str | None, file: Path | None) -> str:
    """The prompt of the command line, of `file`, or of stdin (`-`, or nothing given and stdin not a terminal).

    Raises InvalidInput when there is none, more than one, or its bytes are not UTF-8.
    """
    if argument is not None and file is not None:
        raise InvalidInput("give the prompt as an argument or by --file, not both")
    if argument not in (None, "-"):
        prompt = argument
    elif file is not None and str(file) != "-":
        try:
            prompt = _decode(file.read_bytes())
        except OSError as error:
            raise InvalidInput(f"the prompt file cannot be read: {error.strerror}") from None
    elif argument is None and file is None and is_terminal(sys.stdin):
        raise InvalidInput("there is no prompt; give it as an argument, by --file or on stdin")
    else:
        prompt = _decode(sys.stdin.buffer.read())
    if not prompt.strip():
        raise InvalidInput("the prompt is empty")
    if not is_storable(prompt):
        raise InvalidInput("the prompt holds a NUL character or is not valid UTF-8")
    return prompt


def run(runtime: str | None, new: NewTask, *, detach: bool, quiet: bool, as_json: bool) -> None:
    """Create the task; unless `detach`, follow it and write its result."""
    created: list[str] = []

    async def command(client: RuntimeClient) -> ExitCode:
        progress = _progress(client, quiet=quiet or as_json)
        answer = await create(client, new.to_wire(), progress)
        task = parse(LLMTask, answer)
        created.append(task.id)
        if detach:
            if as_json:
                print_json(answer)
            else:
                print(task.id)
            return ExitCode.DONE
        progress.line(f"task {task.id}")
        ending = await follow(client, task.id, progress)
        return await conclude(client, ending, progress, quiet=quiet, as_json=as_json)

    def interrupted() -> None:
        _say_how_to_go_on(created[0] if created else None, as_json=as_json)

    run_command(runtime, command, as_json=as_json, interrupted=interrupted)


def follow_existing(runtime: str | None, task_id: str, *, quiet: bool, as_json: bool) -> None:
    """Follow the task from its first event and write its result, as `run` does."""

    async def command(client: RuntimeClient) -> ExitCode:
        progress = _progress(client, quiet=quiet or as_json)
        ending = await follow(client, task_id, progress)
        return await conclude(client, ending, progress, quiet=quiet, as_json=as_json)

    run_command(runtime, command, as_json=as_json, interrupted=lambda: _say_how_to_go_on(task_id, as_json=as_json))


async def create(
    client: RuntimeClient, body: dict[str, Any], progress: Progress, *, pause: Pause = asyncio.sleep
) -> Any:
    """POST `body` and return the runtime's LLMTask. An answer that was lost is asked for again under the same key.

    A runtime that is not there at all, or refuses for good, is raised at once.
    """
    maybe_created = False
    attempt = 0
    while True:
        attempt += 1
        try:
            return await client.request("POST", "/llm-tasks", json=body)
        except RuntimeUnreachable as error:
            maybe_created = maybe_created or error.maybe_received
            again = maybe_created
            problem: BloomError = error
            asked_pause = 0.0
        except RuntimeRefused as error:
            asked_pause = error.retry_after_sec or 0.0
            again = error.status in (429, 502, 503, 504) and asked_pause <= _LONGEST_ASKED_PAUSE_SEC
            problem = error
        if not again or attempt == CREATE_TRIES:
            break
        pause_sec = max(backoff(attempt), asked_pause)
        progress.connection_lost(problem.message, pause_sec)
        await pause(pause_sec)
    if maybe_created:
        key = body["idempotency_key"]
        problem.message += f"; perhaps the task was created: the same command with --idempotency-key {key} finds it"
    raise problem


async def why_waiting(client: RuntimeClient, task: LLMTask) -> str:
    """Why nobody takes a queued task yet, in words; asks the runtime for its workers."""
    if task.run_at is not None and (seconds := task.run_at / 1000 - time.time()) > 1:
        return f"waiting until its time, in {short_duration(seconds)}"
    try:
        workers = parse_list(WorkerNode, await client.request("GET", "/workers"))
    except BloomError:
        return "waiting for a worker"
    online = [worker for worker in workers if worker.status == "online" and not worker.draining]
    if not online:
        return "waiting for a worker: none is online; start one with `bloom worker`"
    able = [worker for worker in online if set(task.labels) <= set(worker.capabilities.labels)]
    if not able:
        return f"waiting for a worker: none that is online carries the labels {', '.join(task.labels)}"
    if all(worker.active_leases >= worker.capabilities.max_concurrency for worker in able):
        return "waiting for a worker: all are busy"
    return "waiting for a worker"


def _progress(client: RuntimeClient, *, quiet: bool) -> Progress:
    async def ask(task: LLMTask) -> str:
        return await why_waiting(client, task)

    return Progress(ask, quiet=quiet, out=sys.stdout, err=sys.stderr)


def _say_how_to_go_on(task_id: str | None, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": "interrupted", "code": "interrupted", "task_id": task_id}), file=sys.stderr)
        return
    if task_id is None:
        print("\nbloom: interrupted; the task may not have been created", file=sys.stderr)
        return
    shown = clean_line(task_id)
    print(f"\nbloom: no longer following; the task goes on. See it: bloom task show {shown} --follow", file=sys.stderr)
    print(f"bloom: end it: bloom task cancel {shown}", file=sys.stderr)


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("the prompt is not valid UTF-8") from None
