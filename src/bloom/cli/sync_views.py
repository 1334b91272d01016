"""What `bloom sync` shows, and the run of each of its commands."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import typer

from bloom.base.errors import BloomError
from bloom.base.findings import Finding
from bloom.base.settings import load
from bloom.cli.findings import print_findings
from bloom.cli.tables import Cell, print_fields, print_table
from bloom.cli.terminal import ago, clean_line, print_json
from bloom.sync import doctor as doctoring
from bloom.sync import pull as pulling
from bloom.sync import push as pushing
from bloom.sync import restore as restoring
from bloom.sync import status as looking
from bloom.sync.model import Outcome
from bloom.sync.node import Node, open_node
from bloom.sync.settings import SyncSettings

_INTERRUPTED = 130

T = TypeVar("T")


def push(project: str | None, db: Path | None, *, force: bool, dry_run: bool, as_json: bool) -> None:
    """Push and tell how it went."""
    _run(project, db, lambda node: pushing.push(node, force=force, dry_run=dry_run), _print_outcome, as_json=as_json)


def pull(project: str | None, db: Path | None, *, merge: bool, force: bool, dry_run: bool, as_json: bool) -> None:
    """Pull and tell how it went."""

    def work(node: Node) -> Awaitable[Outcome]:
        return pulling.pull(node, force=force, dry_run=dry_run, merge=merge)

    _run(project, db, work, _print_outcome, as_json=as_json)


def restore(project: str | None, db: Path | None, version: str, *, dry_run: bool, as_json: bool) -> None:
    """Restore a version and tell how it went."""
    _run(project, db, lambda node: restoring.restore(node, version, dry_run=dry_run), _print_outcome, as_json=as_json)


def status(project: str | None, db: Path | None, *, as_json: bool) -> None:
    """Show how the node stands."""
    _run(project, db, looking.status, _print_status, as_json=as_json)


def doctor(project: str | None, db: Path | None, *, as_json: bool) -> None:
    """Show what was found; exit code 1 when one of it is a problem."""
    if wrong := doctoring.examine_settings(_given(project, db)):
        raise typer.Exit(print_findings(wrong, as_json=as_json))
    _run(project, db, doctoring.examine, _print_findings, as_json=as_json)


def history(project: str | None, db: Path | None, *, as_json: bool) -> None:
    """List the versions."""
    _run(project, db, restoring.history, _print_history, as_json=as_json)


def _run(
    project: str | None,
    db: Path | None,
    work: Callable[[Node], Awaitable[T]],
    show: Callable[[Node, T, bool], int],
    *,
    as_json: bool,
) -> None:
    """Run `work` and end with an exit code of the wire contract, section 2.3. SIGTERM and Ctrl-C release what is held."""

    async def with_node() -> int:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        with contextlib.suppress(NotImplementedError, RuntimeError):  # not in the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        settings = load(SyncSettings, **_given(project, db))
        async with open_node(settings) as node:
            return show(node, await work(node), as_json)

    try:
        code = asyncio.run(with_node())
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = _INTERRUPTED
    except BloomError as error:
        _print_error(error.message, error.code, as_json=as_json)
        code = getattr(error, "exit_code", 1)
    except OSError as error:
        what = error.strerror or type(error).__name__
        where = f" ({error.filename})" if error.filename else ""
        _print_error(f"{what}{where}; no memory is lost, `bloom sync status` tells more", "os_error", as_json=as_json)
        code = 1
    if code:
        raise typer.Exit(code)


def _given(project: str | None, db: Path | None) -> dict[str, Any]:
    given: dict[str, Any] = {"CLAUDE_PROJECT_ID": project, "CLAUDE_MEM_DB": db}
    return {name: value for name, value in given.items() if value is not None}


def _print_error(message: str, code: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": message, "code": code}), file=sys.stderr)
    else:
        print(f"bloom: {clean_line(message)}", file=sys.stderr)


def _warn(warnings: tuple[str, ...]) -> None:
    for warning in warnings:
        print(f"bloom: warning: {clean_line(warning)}", file=sys.stderr)


def _print_outcome(node: Node, outcome: Outcome, as_json: bool) -> int:
    if as_json:
        known = {"status": outcome.status, "project": node.keys.project, "canonical_id": node.keys.canonical_id}
        print_json(
            {
                **known,
                **outcome.detail,
                "message": outcome.message,
                "notes": list(outcome.notes),
                "warnings": list(outcome.warnings),
            }
        )
    else:
        _warn(outcome.warnings)
        for line in (outcome.message, *outcome.notes):
            print(clean_line(line))
    return 0


def _print_status(node: Node, found: looking.Status, as_json: bool) -> int:
    if as_json:
        print_json(
            {
                "project": node.keys.project,
                "canonical_id": node.keys.canonical_id,
                "node_id": node.settings.node_id,
                "store": node.settings.store_name,
                "database": str(node.files.database),
                **asdict(found),
            }
        )
        return 0
    _warn(() if found.warning is None else (found.warning,))
    standing = found.standing
    epoch = "" if standing.epoch is None else f", epoch {standing.epoch}"
    print_fields(
        [
            ("project", f"{node.keys.project} ({node.keys.canonical_id})"),
            ("node", f"{node.settings.node_id}: {standing.role}{epoch}, says {standing.source}"),
            ("", standing.reason),
            ("here", _here(found)),
            ("there", "nothing" if found.remote is None else pushing.describe(found.remote)),
            ("state", found.relation.replace("_", " ")),
            ("last sync", ago(found.synced_at_ms)),
            (
                "plain copy",
                {None: "", True: "current", False: "stale; the next push or pull repairs it"}[found.plain_is_current],
            ),
            ("lock", "" if found.lock is None else f"held by {found.lock.hostname}"),
            ("next", found.advice),
        ]
    )
    return 0


def _here(found: looking.Status) -> str:
    if found.local is not None:
        return pushing.describe(found.local)
    return "no sound database" if found.relation == "broken_local" else "nothing"


def _print_findings(_node: Node | None, found: list[Finding], as_json: bool) -> int:
    return print_findings(found, as_json=as_json)


def _print_history(node: Node, found: tuple[Any, str | None], as_json: bool) -> int:
    versions, warning = found
    if as_json:
        print_json([asdict(each) for each in versions])
        return 0
    _warn(() if warning is None else (warning,))
    rows = [
        [
            each.sha256[:12],
            str(each.epoch),
            datetime.fromtimestamp(each.created_at_ms / 1000).strftime("%Y-%m-%d %H:%M:%S"),
            each.node_id or "-",
            str(each.counts.get("observations", "-")),
            Cell("current", "green") if each.current else "",
        ]
        for each in versions
    ]
    print_table(["VERSION", "EPOCH", "PUSHED", "BY", "OBSERVATIONS", ""], rows)
    return 0
