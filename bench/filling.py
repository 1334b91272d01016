"""Fills a database as a busy installation has it after a month."""

from pathlib import Path
from typing import Any

import psycopg

from bench.payload import text

_STEP = 100_000
_FILE = Path(__file__).parent / "sql" / "fill.sql"
_BLOCKS = dict(part.split("\n", 1) for part in _FILE.read_text().split("-- name: ")[1:])
_WORDS = text(8192, 3)


def fill(connection: psycopg.Connection, *, finished: int, queued: int) -> None:
    """`finished` tasks with leases, results, artifacts, events and audit entries, and `queued` ones; vacuumed, analysed."""
    for name in ("settings", "workers"):
        _run(connection, name)
    for first in range(1, finished + 1, _STEP):
        _run(connection, "finished", first=first, last=min(first + _STEP - 1, finished), finished=finished)
    for name in ("leases", "artifacts", "results", "events"):
        _run(connection, name)
    fill_queue(connection, queued)
    for name in ("audit", "vacuum"):
        _run(connection, name)
    connection.execute("checkpoint")


def fill_queue(connection: psycopg.Connection, queued: int) -> None:
    """`queued` tasks more, without the audit entries of their creation."""
    for name in ("queued", "count", "counted"):
        _run(connection, name, queued=queued)


def _run(connection: psycopg.Connection, name: str, **values: int) -> None:
    # Without values the server takes several statements at once, and a percent sign is one.
    needed: dict[str, Any] | None = {**values, "words": _WORDS} if "%(" in _BLOCKS[name] else None
    connection.execute(_BLOCKS[name].encode(), needed)
