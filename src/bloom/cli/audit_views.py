"""`bloom audit list`: what it asks of the runtime and how it shows it."""

import json
from collections.abc import Mapping

from bloom.audit.schemas import AuditLogEntry
from bloom.base.clock import to_ms
from bloom.cli.exits import ExitCode
from bloom.cli.moments import moment
from bloom.cli.pages import read_pages
from bloom.cli.session import parse_list, run_command
from bloom.cli.tables import Cell, print_table
from bloom.cli.terminal import ago, clean_line, print_json
from bloom.client import RuntimeClient


def list_entries(
    runtime: str | None,
    wanted: Mapping[str, str | None],
    *,
    since: str | None,
    until: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Write up to `limit` (None: all) of the wanted entries to stdout, newest first."""
    params: dict[str, str | int] = {name: value for name, value in wanted.items() if value is not None}
    for name, text in (("since", since), ("until", until)):
        if text is not None:
            params[name] = to_ms(moment(text, f"--{name}"))

    async def command(client: RuntimeClient) -> ExitCode:
        answers = await read_pages(client, "/audit", params, limit=limit)
        if as_json:
            print_json(answers)
        elif answers:
            header = ["ID", "WHEN", "ACTION", "ACTOR", "KIND", "OF", "DETAIL"]
            print_table(header, [_row(entry) for entry in parse_list(AuditLogEntry, answers)])
        else:
            print("no such entries" if params else "no entries yet")
        return ExitCode.DONE

    run_command(runtime, command, as_json=as_json)


def _row(entry: AuditLogEntry) -> list[str | Cell]:
    detail = json.dumps(entry.detail, ensure_ascii=False) if entry.detail else ""
    who = clean_line(entry.actor, 32)
    return [
        entry.id,
        ago(entry.timestamp),
        entry.action,
        who,
        entry.entity_type,
        clean_line(entry.entity_id, 40),
        detail,
    ]
