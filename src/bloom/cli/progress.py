"""What a person sees while a task runs: one line for each step on stderr, the model's text as it comes."""

import json
import shutil
from collections.abc import Awaitable, Callable
from typing import Any, TextIO

from bloom.cli.tables import cut_to_width
from bloom.cli.terminal import clean, clean_line, is_terminal, paint, short_duration
from bloom.tasks.model import FINAL, TaskStatus
from bloom.tasks.schemas import EventOut, LLMResult, LLMTask

_LINE_LIMIT = 1000

WhyWaiting = Callable[[LLMTask], Awaitable[str]]
"""Says in words why nobody takes a queued task yet."""


class Progress:
    """A Watcher (see `follow`) that writes to `err`, and to `out` the text of the run when `out` is a terminal.

    `quiet` writes nothing at all. `streamed(output)` tells afterwards whether `output` was seen already.
    """

    def __init__(self, why_waiting: WhyWaiting, *, quiet: bool, out: TextIO, err: TextIO) -> None:
        self._why_waiting = why_waiting
        self._quiet = quiet
        self.out = out
        self._err = err
        self._streams = is_terminal(out) and not quiet
        self._shown: tuple[object, ...] = ()
        self._lease: str | None = None
        self._text: list[str] = []  # what was streamed of the current lease
        self._line_open = False
        self._last_line = ""

    async def task_changed(self, task: LLMTask) -> None:
        """A line for each new state."""
        state = (task.status, task.attempts, task.worker_id, task.cancel_requested)
        if self._quiet or state == self._shown:
            return
        again = bool(self._shown)
        self._shown = state
        attempt = f"attempt {task.attempts} of {task.max_attempts}"
        if task.cancel_requested and task.status not in FINAL:
            self.line(f"cancel asked; {task.worker_id or 'the worker'} stops it", "yellow")
        elif task.status is TaskStatus.QUEUED:
            if again and task.attempts:
                self.line(f"queued again after {attempt}", "yellow")
            self.line(await self._why_waiting(task))
        elif task.status is TaskStatus.LEASED:
            self.line(f"leased by {task.worker_id} ({attempt})")
        elif task.status is TaskStatus.RUNNING:
            self.line(f"running at {task.worker_id} ({attempt})")

    def happened(self, event: EventOut) -> None:
        """A line for each tool call, retry and error; text as it comes."""
        if self._quiet:
            return
        if event.lease_id != self._lease:
            self._lease = event.lease_id
            self._text.clear()
            self.end_line()
        if event.type == "text":
            self._stream_text(_text(event.data, "text"))
        elif (described := describe_event(event)) is not None:
            text, colour = described
            self.line(_cut(text) if event.type.startswith("tool_") else text, colour)

    def connection_lost(self, reason: str, pause_sec: float) -> None:
        """Says so; the task itself goes on meanwhile."""
        self.line(f"{reason}; next try in {short_duration(pause_sec)}", "yellow")

    def line(self, text: str, colour: str = "dim") -> None:
        """One line on stderr; the same line twice in a row is written once."""
        shown = clean_line(text, _LINE_LIMIT)
        if self._quiet or not shown or (shown == self._last_line and not self._line_open):
            return
        self.end_line()
        self._last_line = shown
        print(paint(shown, colour, self._err), file=self._err, flush=True)

    def end_line(self) -> None:
        """End the line of streamed text, if one is open."""
        if self._line_open:
            print(file=self.out, flush=True)
            self._line_open = False

    def streamed(self, output: str) -> bool:
        """Whether the person has just read `output`: the streamed text ends with it."""
        wanted = clean(output).strip()
        return self._streams and bool(wanted) and "".join(self._text).rstrip().endswith(wanted)

    def _stream_text(self, text: str) -> None:
        shown = clean(text)
        if not self._streams or not shown:
            return
        self._text.append(shown)
        self.out.write(shown)
        self.out.flush()
        self._line_open = not shown.endswith("\n")


def describe_event(event: EventOut) -> tuple[str, str] | None:
    """An event as one line and its colour; None for text, thinking and what says nothing to a person."""
    data = event.data
    match event.type:
        case "tool_use":
            described = f"→ {_text(data, 'name')} {_tool_input(data.get('input'))}", "dim"
        case "tool_result" if data.get("is_error"):
            described = f"← error: {_text(data, 'content')}", "yellow"
        case "status" if data.get("state") != "started":  # the task's own state has said so
            described = _joined(_text(data, "state").replace("_", " "), _text(data, "message")), "dim"
        case "retry":
            described = _retry(data), "yellow"
        case "rate_limit" if data.get("status") != "allowed":
            described = _joined(f"rate limit {_text(data, 'limit')}".strip(), _text(data, "status")), "yellow"
        case "error":
            described = _joined(_text(data, "code") or "error", _text(data, "message")), "red"
        case _:
            return None
    return described if described[0].strip() else None


def summary(task: LLMTask, result: LLMResult | None) -> str:
    """One line on how a task ended: state, duration, tokens, US dollars, worker, artifact; why, if it failed."""
    parts: list[str] = [str(task.status)]
    if result is not None:
        metrics = result.metrics
        if isinstance(duration := metrics.get("duration_ms"), int | float):
            parts.append(short_duration(duration / 1000))
        if isinstance(tokens := metrics.get("tokens_used"), int | float):
            parts.append(f"{tokens:,.0f} tokens")
        if isinstance(cost := metrics.get("cost_usd"), int | float):
            parts.append(f"${cost:.4f}")
        parts.append(f"worker {result.worker_id}")
        if result.artifact_id is not None:
            parts.append(f"artifact {result.artifact_id}")
    if task.attempts > 1:
        parts.append(f"{task.attempts} attempts")
    line = " · ".join(parts)
    return clean_line(line if (why := failure(task, result)) is None else f"{line}: {why}")


def failure(task: LLMTask, result: LLMResult | None) -> str | None:
    """Why a failed or dead task has no output, in one line; None for all other states."""
    if task.status not in (TaskStatus.FAILED, TaskStatus.DEAD):
        return None
    if result is None or not (result.error_message or result.code):
        return "its worker was lost at the last attempt" if task.status is TaskStatus.DEAD else "no reason was given"
    return clean_line(_joined(result.code or "", result.error_message or ""), 1000)


def _cut(line: str) -> str:
    return cut_to_width(line, shutil.get_terminal_size((100, 24)).columns)


def _joined(first: str, second: str) -> str:
    return f"{first}: {second}" if first and second else first or second


def _text(data: dict[str, Any], name: str) -> str:
    """The text under `name`, empty when there is none."""
    value = data.get(name)
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _retry(data: dict[str, Any]) -> str:
    """A call of the model that is tried again: which try, when, why."""
    words = ["retry"]
    if isinstance(attempt := data.get("attempt"), int):
        words.append(f"{attempt} of {most}" if isinstance(most := data.get("max_retries"), int) else str(attempt))
    if isinstance(delay := data.get("retry_delay_ms"), int | float):
        words.append(f"in {short_duration(delay / 1000)}")
    return _joined(" ".join(words), " ".join(part for name in ("error_status", "error") if (part := _text(data, name))))


def _tool_input(value: Any) -> str:
    if isinstance(value, dict) and len(value) == 1:  # pyright: ignore[reportUnknownArgumentType]
        value = next(iter(value.values()))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) if value is not None else ""
