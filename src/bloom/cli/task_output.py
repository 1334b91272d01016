"""The end of a followed task: its output on stdout exactly once, its summary on stderr, its exit code."""

import codecs
import sys
from typing import Any, TextIO

from bloom.cli.exits import ExitCode
from bloom.cli.follow import Ending
from bloom.cli.progress import Progress, failure, summary
from bloom.cli.terminal import clean, is_terminal, print_json
from bloom.client import RuntimeClient, path_segment
from bloom.tasks.model import TaskStatus
from bloom.tasks.schemas import LLMResult

_CODES = {
    TaskStatus.COMPLETED: ExitCode.DONE,
    TaskStatus.CANCELLED: ExitCode.CANCELLED,
}


async def conclude(
    client: RuntimeClient, ending: Ending, progress: Progress, *, quiet: bool, as_json: bool
) -> ExitCode:
    """Write what a followed task came to, and return the exit code that says it."""
    task, result = ending.task, ending.result
    code = _CODES.get(task.status, ExitCode.FAILED)
    if as_json:
        print_json(await with_whole_output(client, ending.document, result))
        return code
    if task.status is TaskStatus.COMPLETED and result is not None:
        if result.output is not None and progress.streamed(result.output):
            progress.end_line()
        else:
            progress.end_line()
            await write_output(client, result, progress.out)
    progress.line(summary(task, result), "green" if code is ExitCode.DONE else "red")
    if quiet and code is not ExitCode.DONE:
        why = failure(task, result)
        print(f"bloom: the task is {task.status}{f': {why}' if why else ''}", file=sys.stderr)
    return code


async def write_output(client: RuntimeClient, result: LLMResult, out: TextIO) -> None:
    """Write the whole output of `result` to `out`, with a newline at its end; cleaned when `out` is a terminal.

    An output that the runtime cut, or keeps in its object store, is read from the artifact.
    """
    raw = not is_terminal(out)
    end = "\n"
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    if result.artifact_id is not None and _is_elsewhere(result):
        async for chunk in client.download(f"/artifacts/{path_segment(result.artifact_id)}/content"):
            text = decoder.decode(chunk)
            end = text[-1:] or end
            _write(out, text, raw=raw)
    else:
        text = result.output or ""
        end = text[-1:]
        _write(out, text, raw=raw)
    if end != "\n":
        _write(out, "\n", raw=raw)
    out.flush()


async def with_whole_output(
    client: RuntimeClient, document: dict[str, Any], result: LLMResult | None
) -> dict[str, Any]:
    """`document` (`{task, result}`) with the output in full where the runtime cut it or keeps it elsewhere."""
    if result is None or result.artifact_id is None or not _is_elsewhere(result):
        return document
    chunks = [chunk async for chunk in client.download(f"/artifacts/{path_segment(result.artifact_id)}/content")]
    whole = {**document["result"], "output": b"".join(chunks).decode(errors="replace")}
    whole.pop("truncated", None)
    return {**document, "result": whole}


def _is_elsewhere(result: LLMResult) -> bool:
    return bool(result.truncated) or result.output is None


def _write(out: TextIO, text: str, *, raw: bool) -> None:
    if raw:  # a pipe gets UTF-8, whatever the locale
        out.flush()
        out.buffer.write(text.encode(errors="replace"))
    else:
        out.write(clean(text))
