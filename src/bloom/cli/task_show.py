"""`bloom task show`: everything that is known of one task."""

import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

from bloom.artifacts.schemas import RuntimeArtifact
from bloom.base.errors import BloomError
from bloom.cli.exits import ExitCode
from bloom.cli.progress import describe_event, failure
from bloom.cli.session import parse, parse_list, run_command
from bloom.cli.tables import Cell, cut_to_width, print_fields, print_table, state_cell
from bloom.cli.task_output import write_output
from bloom.cli.terminal import ago, clean, clean_line, print_json, short_duration
from bloom.client import RuntimeClient, path_segment
from bloom.tasks.model import FINAL, TaskStatus
from bloom.tasks.schemas import EventOut, LLMResult, LLMTask

SHOWN_EVENTS = 15
EVENT_WIDTH = 68
EVENTS_PAGE = 1000
SHOWN_LINES = 20


def show(runtime: str | None, task_id: str, *, as_json: bool) -> None:
    """Write the task to stdout; as JSON `{"task", "results", "artifacts", "events"}`, each as the runtime gives it."""

    async def command(client: RuntimeClient) -> ExitCode:
        path = f"/llm-tasks/{path_segment(task_id)}"
        task_answer = await client.request("GET", path)
        results_answer = await client.request("GET", f"{path}/results")
        artifacts_answer = await client.request("GET", "/artifacts", params={"task_id": task_id})
        if as_json:
            events = [event async for event in _events(client, path)]
            print_json(
                {"task": task_answer, "results": results_answer, "artifacts": artifacts_answer, "events": events}
            )
            return ExitCode.DONE
        task = parse(LLMTask, task_answer)
        results = sorted(parse_list(LLMResult, results_answer), key=lambda result: result.completed_at)
        taken = [result for result in results if not result.rejected]
        _print_task(task, taken)
        _print_prompt(task)
        _print_attempts(results)
        _print_rejected(results)
        _print_artifacts(parse_list(RuntimeArtifact, artifacts_answer))
        await _print_events(client, path)
        if task.status is TaskStatus.COMPLETED and taken:
            _print_heading("Output")
            await write_output(client, taken[-1], sys.stdout)
        elif task.status not in FINAL:
            print(f"\nfollow it: bloom task show {task.id} --follow")
        return ExitCode.DONE

    run_command(runtime, command, as_json=as_json)


def _print_task(task: LLMTask, results: Sequence[LLMResult]) -> None:
    policy = f"at most {task.policy.timeout_sec} s a run"
    if task.policy.budget:
        policy += f", ${task.policy.budget:g}"
    fields: list[tuple[str, str | Cell]] = [
        ("task", task.id),
        ("status", state_cell(task.status.value)),
        ("why", failure(task, results[-1] if results else None) or ""),
        ("cancel", "asked" if task.cancel_requested and task.status not in FINAL else ""),
        ("created", ago(task.created_at)),
        ("changed", ago(task.updated_at)),
        ("due", _due(task)),
        ("worker", task.worker_id or ""),
        ("attempts", f"{task.attempts} of {task.max_attempts}"),
        ("context", task.context_id),
        ("agent", task.agent_slug),
        ("policy", policy),
        ("format", task.desired_format),
        ("priority", str(task.priority) if task.priority else ""),
        ("labels", ", ".join(task.labels)),
        ("concurrency key", task.concurrency_key or ""),
        ("hints", ", ".join(task.context_hints)),
    ]
    print_fields(fields)


def _print_prompt(task: LLMTask) -> None:
    _print_heading("Prompt")
    _print_beginning(task.prompt)


def _print_rejected(results: Sequence[LLMResult]) -> None:
    """What was finished under a lease that was lost by then: it came to nothing, but somebody may want it."""
    for result in results:
        if result.rejected and result.output:
            _print_heading(f"Output that came too late, of {clean_line(result.worker_id, 24)}")
            _print_beginning(result.output)


def _print_beginning(text: str) -> None:
    lines = clean(text).splitlines()
    print("\n".join(lines[:SHOWN_LINES]))
    if len(lines) > SHOWN_LINES:
        print(f"… ({len(lines) - SHOWN_LINES} more lines; --json has more)")


def _print_attempts(results: Sequence[LLMResult]) -> None:
    if results:
        _print_heading("Results")
        print_table(
            ["RESULT", "ENDED", "WORKER", "TOOK", "TOKENS", "COST", "ERROR"],
            [_result_row(result) for result in results],
        )


def _result_row(result: LLMResult) -> list[str | Cell]:
    duration, tokens, cost = (result.metrics.get(name) for name in ("duration_ms", "tokens_used", "cost_usd"))
    error = ": ".join(part for part in (result.code, result.error_message) if part)
    if result.rejected:
        why = f"came too late: {result.reason or 'lease_ended'}"
        error = f"{why}; {error}" if error else why
    return [
        state_cell("rejected" if result.rejected else result.status),
        ago(result.completed_at),
        clean_line(result.worker_id, 24),
        short_duration(duration / 1000) if isinstance(duration, int | float) else "-",
        f"{tokens:,.0f}" if isinstance(tokens, int | float) else "-",
        f"${cost:.4f}" if isinstance(cost, int | float) else "-",
        error,
    ]


def _print_artifacts(artifacts: Sequence[RuntimeArtifact]) -> None:
    if artifacts:
        _print_heading("Artifacts")
        rows = [[artifact.id, artifact.type, ago(artifact.created_at), artifact.url or ""] for artifact in artifacts]
        print_table(["ID", "TYPE", "MADE", "URL"], rows)


async def _print_events(client: RuntimeClient, path: str) -> None:
    """The last events that say something in one line; the text of the run is the output's."""
    lines: deque[str] = deque(maxlen=SHOWN_EVENTS)
    count = 0
    async for answer in _events(client, path):
        event = parse(EventOut, answer)
        count += 1
        if (described := describe_event(event)) is not None:
            lines.append(f"{ago(event.at):>10}  {cut_to_width(described[0], EVENT_WIDTH)}")
    if lines:
        _print_heading(f"Events (the last of {count})")
        print("\n".join(lines))


async def _events(client: RuntimeClient, path: str) -> AsyncGenerator[Any]:
    """All events of a task as the runtime gives them, page by page."""
    after = 0
    while True:
        answer = await client.request("GET", f"{path}/events", params={"after": after, "limit": EVENTS_PAGE})
        if not isinstance(answer, list):
            raise BloomError("the runtime's answer is not understood", code="bad_answer")
        page = cast("list[Any]", answer)
        if not page:
            return
        for event in page:
            yield event
        newest = parse(EventOut, page[-1]).id
        if newest <= after:
            return
        after = newest


def _print_heading(title: str) -> None:
    print(f"\n{title}")


def _due(task: LLMTask) -> str:
    """When a queued task may run, if that is not now."""
    if task.run_at is None or task.status is not TaskStatus.QUEUED:
        return ""
    seconds = task.run_at / 1000 - time.time()
    return f"in {short_duration(seconds)}" if seconds > 0 else "now"
