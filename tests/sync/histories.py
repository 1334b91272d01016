"""Histories of a claude-mem database for tests of the merge: what happened on a machine, and how its rows compare."""

import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.sync.claude_mem import EPOCH_MS, opened

Step = tuple[str, int, int, int]
"""What happens, to which session, with which words, at which millisecond: small numbers, so that histories meet."""

_STAMP = "2026-11-21T00:00:00.000Z"


def copy(path: Path, to: Path) -> Path:
    """A copy of the database at `path` as a snapshot, without a write-ahead log."""
    with opened(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, to)
    return to


def live_through(path: Path, steps: list[Step], machine: str) -> None:
    """Let `steps` happen to the database at `path` on `machine`, whose sessions of claude-mem's own have other ids."""
    with opened(path) as db:
        for what, session, words, at in steps:
            _take(db, what, session, words, EPOCH_MS + at, machine)


def _take(db: sqlite3.Connection, what: str, session: int, words: int, at: int, machine: str) -> None:
    content = f"content-{session}"
    memory = db.execute(
        "SELECT memory_session_id, id FROM sdk_sessions WHERE content_session_id = ?", (content,)
    ).fetchone()
    if memory is None:
        db.execute(
            "INSERT INTO sdk_sessions (content_session_id, memory_session_id, project, started_at, started_at_epoch)"
            " VALUES (?, ?, 'demo', ?, ?)",
            (content, f"{machine}-{session}", _STAMP, at),
        )
        memory = db.execute(
            "SELECT memory_session_id, id FROM sdk_sessions WHERE content_session_id = ?", (content,)
        ).fetchone()
    match what:
        case "observe" | "observe unhashed":
            hashed = f"hash-{words}" if what == "observe" else None
            db.execute(
                "INSERT OR IGNORE INTO observations (memory_session_id, project, type, title, content_hash, created_at,"
                " created_at_epoch) VALUES (?, 'demo', 'discovery', ?, ?, ?, ?)",
                (memory[0], f"title {words}", hashed, _STAMP, at),
            )
        case "prompt":
            db.execute(
                "INSERT INTO user_prompts (content_session_id, prompt_number, prompt_text, created_at, created_at_epoch)"
                " VALUES (?, ?, ?, ?, ?)",
                (content, words, f"prompt {words}", _STAMP, at),
            )
            db.execute("UPDATE sdk_sessions SET prompt_counter = prompt_counter + 1 WHERE id = ?", (memory[1],))
        case "summarise":
            db.execute(
                "INSERT INTO session_summaries (memory_session_id, project, learned, created_at, created_at_epoch)"
                " VALUES (?, 'demo', ?, ?, ?)",
                (memory[0], f"learned {words}", _STAMP, at),
            )
        case "queue":
            db.execute(
                "INSERT OR IGNORE INTO pending_messages (session_db_id, content_session_id, tool_use_id, message_type,"
                " created_at_epoch) VALUES (?, ?, ?, 'observation', ?)",
                (memory[1], content, f"tool-{words}" if words else None, at),
            )
        case "rate":
            db.execute(
                "INSERT INTO observation_feedback (observation_id, signal_type, session_db_id, created_at_epoch)"
                " SELECT max(id), ?, ?, ? FROM observations WHERE memory_session_id = ? HAVING max(id) IS NOT NULL",
                (f"signal {words}", memory[1], at, memory[0]),
            )
        case "complete":
            db.execute(
                "UPDATE sdk_sessions SET status = 'completed', completed_at = ?, completed_at_epoch = ? WHERE id = ?",
                (_STAMP, at, memory[1]),
            )
        case "restart":  # claude-mem gives the session a new id of its own; its rows follow
            db.execute(
                "UPDATE sdk_sessions SET memory_session_id = ? WHERE id = ?",
                (f"{machine}-{session}-{words}", memory[1]),
            )
        case "retitle":
            db.execute(
                "UPDATE observations SET title = ? WHERE id = (SELECT min(id) FROM observations WHERE"
                " memory_session_id = ?)",
                (f"{machine} title {words}", memory[0]),
            )
        case _:
            raise AssertionError(what)


STEPS = (*("observe", "observe unhashed", "prompt", "summarise", "queue", "rate", "complete", "restart", "retitle"),)


def memory_of(path: Path) -> dict[str, Counter[tuple[Any, ...]]]:
    """The rows of each table without the numbers that SQLite gave them: rows are named by what they say."""
    with closing(sqlite3.connect(path)) as db:
        session = "(SELECT content_session_id FROM sdk_sessions AS s WHERE s.{} = t.{})"
        by_memory = session.format("memory_session_id", "memory_session_id")
        queries = {
            "sdk_sessions": "SELECT content_session_id, memory_session_id, project, started_at_epoch, completed_at_epoch,"
            " status, prompt_counter FROM sdk_sessions",
            "observations": f"SELECT {by_memory}, memory_session_id, title, content_hash, created_at_epoch FROM observations t",
            "session_summaries": f"SELECT {by_memory}, learned, created_at_epoch FROM session_summaries t",
            "user_prompts": "SELECT content_session_id, prompt_number, prompt_text, created_at_epoch FROM user_prompts",
            "pending_messages": f"SELECT {session.format('id', 'session_db_id')}, content_session_id, tool_use_id,"
            " created_at_epoch FROM pending_messages t",
            "observation_feedback": f"SELECT (SELECT {by_memory} || title || created_at_epoch FROM observations t WHERE"
            f" t.id = f.observation_id), {session.format('id', 'session_db_id').replace('t.', 'f.')}, signal_type,"
            " created_at_epoch FROM observation_feedback f",
        }
        return {table: Counter(db.execute(query).fetchall()) for table, query in queries.items()}
