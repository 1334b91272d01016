"""`bloom task list`, `cancel` and `requeue`."""

import shutil
from typing import Any, Literal

from bloom.base.errors import BloomError
from bloom.cli.exits import ExitCode, exit_code_of, report
from bloom.cli.pages import read_pages
from bloom.cli.session import parse, parse_list, run_command
from bloom.cli.tables import Cell, print_table, state_cell
from bloom.cli.terminal import ago, clean_line, print_json
from bloom.client import RuntimeClient, RuntimeRefused, path_segment
from bloom.tasks.model import FINAL, TaskStatus
from bloom.tasks.schemas import LLMTask

Change = Literal["cancel", "requeue"]


def list_tasks(runtime: str | None, *, status: TaskStatus | None, limit: int | None, as_json: bool) -> None:
    """Write up to `limit` tasks (None: all) to stdout, newest first."""

    async def command(client: RuntimeClient) -> ExitCode:
        wanted = {} if status is None else {"status": status.value}
        answers = await read_pages(client, "/llm-tasks", wanted, limit=limit)
        if as_json:
            print_json(answers)
            return ExitCode.DONE
        tasks = parse_list(LLMTask, answers)
        if tasks:
            wide = shutil.get_terminal_size((80, 24)).columns >= 100
            header = ["ID", "STATUS", "CREATED", "WORKER", *(["AGENT"] if wide else []), "PROMPT"]
            print_table(header, [_row(task, wide=wide) for task in tasks])
        else:
            print("no tasks" if status is None else f"no {status} tasks")
        return ExitCode.DONE

    run_command(runtime, command, as_json=as_json)


def change_many(runtime: str | None, what: Change, ids: list[str], *, as_json: bool) -> None:
    """Cancel or requeue each task. The exit code is that of the first one refused; the others are done all the same.

    With `as_json` the document is a list with one item per id: `{"id", "task"}` or `{"id", "error", "code"}`.
    """

    async def command(client: RuntimeClient) -> ExitCode:
        worst = ExitCode.DONE
        outcomes: list[dict[str, Any]] = []
        for task_id in ids:
            try:
                answer = await client.request("POST", f"/llm-tasks/{path_segment(task_id)}/{what}")
                task = parse(LLMTask, answer)
            except BloomError as error:
                if isinstance(error, RuntimeRefused) and error.code in ("unauthorized", "forbidden"):
                    raise  # so it is for all the others
                worst = worst or exit_code_of(error)
                outcomes.append({"id": task_id, "error": error.message, "code": error.code})
                if not as_json:
                    report(BloomError(f"{task_id}: {error.message}", code=error.code), as_json=False)
            else:
                outcomes.append({"id": task_id, "task": answer})
                if not as_json:
                    print(f"{task.id} {_outcome(task, what)}")
        if as_json:
            print_json(outcomes)
        return worst

    run_command(runtime, command, as_json=as_json)


def _row(task: LLMTask, *, wide: bool) -> list[str | Cell]:
    start: list[str | Cell] = [
        task.id,
        state_cell(task.status.value),
        ago(task.created_at),
        clean_line(task.worker_id or "-", 24),
    ]
    return [*start, *([clean_line(task.agent_slug, 16)] if wide else []), clean_line(task.prompt[:500])]


def _outcome(task: LLMTask, what: Change) -> str:
    if what == "cancel" and task.status not in FINAL:
        return f"cancel asked; {clean_line(task.worker_id or 'its worker')} stops it"
    return "queued again" if what == "requeue" else task.status.value
