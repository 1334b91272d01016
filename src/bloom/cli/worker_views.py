"""The commands on workers: what they ask of the runtime and how they show it."""

from typing import Any, Literal

from bloom.cli.exits import ExitCode
from bloom.cli.session import parse_list, run_command
from bloom.cli.tables import Cell, print_table, state_cell
from bloom.cli.terminal import ago, clean_line, print_json
from bloom.client import RuntimeClient, path_segment
from bloom.workers.schemas import WorkerNode

Change = Literal["drain", "resume", "remove"]
_DONE: dict[Change, str] = {
    "drain": "takes nothing new; what runs there runs on",
    "resume": "takes tasks again",
    "remove": "is removed; its tasks are queued again",
}


def list_workers(runtime: str | None, *, as_json: bool) -> None:
    """Write the workers to stdout."""

    async def command(client: RuntimeClient) -> ExitCode:
        answer = await client.request("GET", "/workers")
        workers = parse_list(WorkerNode, answer)
        if as_json:
            print_json(answer)
        elif workers:
            print_table(["NAME", "STATUS", "BUSY", "HEARD", "LABELS", "MACHINE"], [_row(worker) for worker in workers])
        else:
            print("no workers yet; start one with `bloom worker`")
        return ExitCode.DONE

    run_command(runtime, command, as_json=as_json)


def change(runtime: str | None, what: Change, name: str, *, as_json: bool) -> None:
    """Drain, resume or remove the worker `name`."""

    async def command(client: RuntimeClient) -> ExitCode:
        path = f"/workers/{path_segment(name)}"
        answer: Any = await (
            client.request("DELETE", path) if what == "remove" else client.request("POST", f"{path}/{what}")
        )
        if as_json:
            print_json(answer)
        else:
            print(f"{clean_line(name)} {_DONE[what]}")
        return ExitCode.DONE

    run_command(runtime, command, as_json=as_json)


def _row(worker: WorkerNode) -> list[str | Cell]:
    status = "draining" if worker.draining and worker.status == "online" else worker.status
    return [
        worker.id,
        state_cell(status),
        f"{worker.active_leases}/{worker.capabilities.max_concurrency}",
        ago(worker.last_heartbeat),
        ", ".join(worker.capabilities.labels),
        _machine(worker),
    ]


def _machine(worker: WorkerNode) -> str:
    if worker.board is None:
        return ""
    words = ", ".join(worker.board.in_words())
    return f"takes nothing new: {'; '.join(worker.board.pressure)} ({words})" if worker.board.pressure else words
