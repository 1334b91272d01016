"""`bloom task`: submit tasks, follow them, and look after them."""

from pathlib import Path
from typing import Annotated

import typer

from bloom.cli.exits import EPILOG, errors_as_exits
from bloom.cli.options import JsonOption, RuntimeOption
from bloom.tasks.model import TaskStatus

app = typer.Typer(help="Submit tasks and look after them.", no_args_is_help=True, epilog=EPILOG)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The whole id of the task.")]
IdsArgument = Annotated[list[str], typer.Argument(metavar="ID...", help="Whole ids of tasks.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Write the result only, nothing of the way to it.")]


@app.command(epilog=EPILOG)
def run(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to do; - or nothing reads stdin.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the prompt from a file.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="The thread it belongs to: same directory, session and worker. Default: a new one."
        ),
    ] = None,
    agent: Annotated[
        str, typer.Option(metavar="SLUG", help="The role it is for, as the workers' config says.")
    ] = "default",
    hint: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Something to know for the run (repeatable).")
    ] = None,
    timeout: Annotated[int | None, typer.Option(min=1, max=3600, metavar="SEC", help="Bound on one run.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, metavar="USD", help="Bound on its cost; 0 is none.")] = None,
    json_output: Annotated[bool, typer.Option("--json-output", help="Ask the model for JSON.")] = False,
    label: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="The worker must carry this label (repeatable).")
    ] = None,
    priority: Annotated[int | None, typer.Option(metavar="N", help="Higher runs first.")] = None,
    max_attempts: Annotated[
        int | None, typer.Option(min=1, max=10, metavar="N", help="Runs before it is dead.")
    ] = None,
    concurrency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Tasks that share it run one at a time, in order.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key again finds the same task.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the task's id and return at once.")] = False,
    quiet: QuietOption = False,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a task, follow it, and write its result to stdout."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import task_run

        new = task_run.NewTask(
            prompt=task_run.read_prompt(prompt, file),
            context=context,
            agent=agent,
            hints=hint or [],
            timeout_sec=timeout,
            budget=budget,
            json_output=json_output,
            labels=label or [],
            priority=priority,
            max_attempts=max_attempts,
            concurrency_key=concurrency_key,
            idempotency_key=idempotency_key,
        )
        task_run.run(runtime, new, detach=detach, quiet=quiet, as_json=as_json)


@app.command("list", epilog=EPILOG)
def list_tasks(
    status: Annotated[
        TaskStatus | None,
        typer.Option(metavar="STATE", help="Only queued, leased, running, completed, failed, dead or cancelled."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most this many, newest first.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="All of them, however many.")] = False,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List tasks, newest first."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import task_list

        task_list.list_tasks(runtime, status=status, limit=None if every else limit, as_json=as_json)


@app.command(epilog=EPILOG)
def show(
    task_id: IdArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Follow it to its end, as `run` does.")] = False,
    quiet: QuietOption = False,
    runtime: RuntimeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a task with its results, events and output."""
    with errors_as_exits(as_json=as_json):
        if follow:
            from bloom.cli import task_run

            task_run.follow_existing(runtime, task_id, quiet=quiet, as_json=as_json)
        else:
            from bloom.cli import task_show

            task_show.show(runtime, task_id, as_json=as_json)


@app.command(epilog=EPILOG)
def cancel(ids: IdsArgument, runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """End tasks. A queued one ends at once, a running one as soon as its worker has heard of it."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import task_list

        task_list.change_many(runtime, "cancel", ids, as_json=as_json)


@app.command(epilog=EPILOG)
def requeue(ids: IdsArgument, runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """Queue failed, dead or cancelled tasks again."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import task_list

        task_list.change_many(runtime, "requeue", ids, as_json=as_json)
