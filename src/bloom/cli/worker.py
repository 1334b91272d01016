"""`bloom worker`: the worker daemon, and what the runtime knows of workers."""

import math
import socket
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bloom.cli.exits import EPILOG, errors_as_exits
from bloom.cli.join import join
from bloom.cli.options import JsonOption, RuntimeOption

app = typer.Typer(
    help="Without a sub-command: run a worker on this machine. With one: look after the workers of the runtime.",
    invoke_without_command=True,
    epilog=EPILOG,
)

NameArgument = Annotated[str, typer.Argument(help="The worker's name, as `bloom worker list` shows it.")]


class Executor(StrEnum):
    """How the worker runs a task."""

    AUTO = "auto"
    CLAUDE = "claude"
    COMMAND = "command"


@app.callback()
def run(
    ctx: typer.Context,
    runtime: RuntimeOption = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="This worker's name. Default: the host name.", show_default=False)
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1, max=32, metavar="N", help="How many tasks it runs at once. Default: 1.", show_default=False
        ),
    ] = None,
    executor: Annotated[Executor, typer.Option(help="How it runs a task; auto: as the config says, else claude.")] = (
        Executor.AUTO
    ),
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="The worker's config file.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="What tasks may ask of their worker; repeat it.", show_default=False),
    ] = None,
    membridge: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Be an agent of this Membridge as well; its key is read from MEMBRIDGE_ADMIN_KEY.",
            show_default=False,
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, metavar="SEC", help="Time for running tasks after a stop signal.")
    ] = 30,
    lifeline_fd: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Stop when this inherited pipe is closed.")
    ] = None,
) -> None:
    """Run a worker on this machine until it is stopped.

    On a machine that has joined no option is needed: runtime, name and slots stand in worker.toml, the key beside it.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = runtime
        return
    if not math.isfinite(grace):
        raise typer.BadParameter("must be a number of seconds", param_hint="--grace")
    with errors_as_exits():
        from bloom.base.settings import ClientSettings, load
        from bloom.client import find_runtime
        from bloom.worker.config import CONFIG_FILE, load_worker_config
        from bloom.worker.daemon import run_worker
        from bloom.worker.joined import read_key
        from bloom.worker.options import WorkerOptions, worker_dir, worker_label, worker_name

        settings = load(ClientSettings)
        file = load_worker_config(config or worker_dir() / CONFIG_FILE)
        named = file.name if name is None else name
        labels = label or file.labels
        # What this machine has joined is one thing, its address, name and key: the environment, which is the CLI's too, comes
        # after it, and the key goes to no other address.
        url = find_runtime(settings, runtime or file.runtime).url
        key = read_key(worker_dir()) if url == file.runtime else None
        if key is None and settings.api_key is not None:
            key = settings.api_key.get_secret_value()
        agent = None
        if (service := membridge or file.membridge) is not None:
            from bloom.cli.agent import agent_of

            agent = agent_of(service)
        code = run_worker(
            WorkerOptions(
                runtime=url,
                api_key=key,
                name=_checked("--name", worker_name, socket.gethostname() if named is None else named.strip()),
                slots=slots or file.slots or 1,
                executor=executor.value,
                config=config,
                grace_sec=grace,
                lifeline_fd=lifeline_fd,
                labels=None if labels is None else tuple(_checked("--label", worker_label, each) for each in labels),
                beside=agent,
            )
        )
        raise typer.Exit(code)


app.command(epilog=EPILOG)(join)


@app.command("list", epilog=EPILOG)
def list_workers(ctx: typer.Context, runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """List the workers that the runtime knows."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import worker_views

        worker_views.list_workers(_runtime(ctx, runtime), as_json=as_json)


@app.command(epilog=EPILOG)
def drain(ctx: typer.Context, name: NameArgument, runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """Give a worker nothing new; what runs there runs on."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import worker_views

        worker_views.change(_runtime(ctx, runtime), "drain", name, as_json=as_json)


@app.command(epilog=EPILOG)
def resume(ctx: typer.Context, name: NameArgument, runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """Let a drained worker take tasks again."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import worker_views

        worker_views.change(_runtime(ctx, runtime), "resume", name, as_json=as_json)


@app.command(epilog=EPILOG)
def remove(ctx: typer.Context, name: NameArgument, runtime: RuntimeOption = None, as_json: JsonOption = False) -> None:
    """Remove a worker; its tasks go back to the queue."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli import worker_views

        worker_views.change(_runtime(ctx, runtime), "remove", name, as_json=as_json)


def _runtime(ctx: typer.Context, runtime: str | None) -> str | None:
    """--runtime of the sub-command, else the one before it."""
    return ctx.obj if runtime is None else runtime


def _checked(option: str, rule: Callable[[str], str], text: str) -> str:
    try:
        return rule(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
