"""A `claude-mem.db` as the claude-mem plugin makes it: its tables, keys, search tables and triggers, filled as asked.

The shape is that of its schema 35: WAL mode, sessions by two ids, observations unique by content hash within a session,
external-content FTS5 tables that triggers keep.
"""

import hashlib
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EPOCH_MS = 1_763_700_000_000
TABLES = ("sdk_sessions", "observations", "session_summaries", "user_prompts", "pending_messages")

_SCHEMA = """
CREATE TABLE schema_versions (
  id INTEGER PRIMARY KEY, version INTEGER UNIQUE NOT NULL, applied_at TEXT NOT NULL);
CREATE TABLE sdk_sessions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  content_session_id TEXT UNIQUE NOT NULL, memory_session_id TEXT UNIQUE,
  project TEXT NOT NULL, platform_source TEXT NOT NULL DEFAULT 'claude', user_prompt TEXT,
  started_at TEXT NOT NULL, started_at_epoch INTEGER NOT NULL, completed_at TEXT, completed_at_epoch INTEGER,
  status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'completed', 'failed')),
  worker_port INTEGER, prompt_counter INTEGER DEFAULT 0, custom_title TEXT);
CREATE TABLE observations (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  memory_session_id TEXT NOT NULL
    REFERENCES sdk_sessions (memory_session_id) ON DELETE CASCADE ON UPDATE CASCADE,
  project TEXT NOT NULL, text TEXT, type TEXT NOT NULL, title TEXT, subtitle TEXT, facts TEXT, narrative TEXT,
  concepts TEXT, files_read TEXT, files_modified TEXT, prompt_number INTEGER, discovery_tokens INTEGER DEFAULT 0,
  content_hash TEXT, agent_type TEXT, agent_id TEXT, merged_into_project TEXT, generated_by_model TEXT, metadata TEXT,
  created_at TEXT NOT NULL, created_at_epoch INTEGER NOT NULL,
  UNIQUE (memory_session_id, content_hash));
CREATE INDEX idx_observations_created ON observations (created_at_epoch DESC);
CREATE TABLE session_summaries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  memory_session_id TEXT NOT NULL
    REFERENCES sdk_sessions (memory_session_id) ON DELETE CASCADE ON UPDATE CASCADE,
  project TEXT NOT NULL, request TEXT, investigated TEXT, learned TEXT, completed TEXT, next_steps TEXT,
  files_read TEXT, files_edited TEXT, notes TEXT, prompt_number INTEGER, discovery_tokens INTEGER DEFAULT 0,
  merged_into_project TEXT, created_at TEXT NOT NULL, created_at_epoch INTEGER NOT NULL);
CREATE TABLE user_prompts (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  content_session_id TEXT NOT NULL REFERENCES sdk_sessions (content_session_id) ON DELETE CASCADE,
  prompt_number INTEGER NOT NULL, prompt_text TEXT NOT NULL, created_at TEXT NOT NULL, created_at_epoch INTEGER NOT NULL);
CREATE INDEX idx_user_prompts_lookup ON user_prompts (content_session_id, prompt_number);
CREATE TABLE pending_messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  session_db_id INTEGER NOT NULL REFERENCES sdk_sessions (id) ON DELETE CASCADE,
  content_session_id TEXT NOT NULL, tool_use_id TEXT,
  message_type TEXT NOT NULL CHECK (message_type IN ('observation', 'summarize')),
  tool_name TEXT, tool_input TEXT, tool_response TEXT, cwd TEXT, last_user_message TEXT, last_assistant_message TEXT,
  prompt_number INTEGER, status TEXT NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'processing')),
  created_at_epoch INTEGER NOT NULL, agent_type TEXT, agent_id TEXT);
CREATE UNIQUE INDEX ux_pending_session_tool ON pending_messages (content_session_id, tool_use_id)
  WHERE tool_use_id IS NOT NULL;
CREATE TABLE observation_feedback (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  observation_id INTEGER NOT NULL REFERENCES observations (id) ON DELETE CASCADE,
  signal_type TEXT NOT NULL, session_db_id INTEGER, created_at_epoch INTEGER NOT NULL, metadata TEXT);
"""

_SEARCHED = {
    "observations": ("title", "subtitle", "narrative", "text", "facts", "concepts"),
    "session_summaries": ("request", "investigated", "learned", "completed", "next_steps", "notes"),
    "user_prompts": ("prompt_text",),
}


@contextmanager
def opened(path: Path) -> Generator[sqlite3.Connection]:
    """A connection as claude-mem opens one; committed and closed at the end."""
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        with connection:
            yield connection
    finally:
        connection.close()


def create_memory(path: Path) -> None:
    """An empty memory at `path`, whose directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened(path) as db:
        db.executescript(_SCHEMA)
        db.execute("INSERT INTO schema_versions (version, applied_at) VALUES (35, '2026-11-01T00:00:00Z')")
        for table, columns in _SEARCHED.items():
            _add_search(db, table, columns)


def _add_search(db: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> None:
    fts, names = f"{table}_fts", ", ".join(columns)
    old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("old", "new"))
    forget = f"INSERT INTO {fts} ({fts}, rowid, {names}) VALUES ('delete', old.id, {old});"  # noqa: S608
    enter = f"INSERT INTO {fts} (rowid, {names}) VALUES (new.id, {new});"  # noqa: S608
    db.executescript(
        f"CREATE VIRTUAL TABLE {fts} USING fts5 ({names}, content='{table}', content_rowid='id');"
        f"CREATE TRIGGER {table}_ai AFTER INSERT ON {table} BEGIN {enter} END;"
        f"CREATE TRIGGER {table}_ad AFTER DELETE ON {table} BEGIN {forget} END;"
        f"CREATE TRIGGER {table}_au AFTER UPDATE ON {table} BEGIN {forget} {enter} END;"
    )


def remember(path: Path, session: str, *, observations: int = 2, project: str = "demo", at_ms: int = EPOCH_MS) -> None:
    """One more session called `session` with a prompt, `observations` observations and a summary. Made when missing.

    The same arguments always give the same rows, save for their integer ids.
    """
    if not path.exists():
        create_memory(path)
    stamp = f"2026-11-21T00:00:00.{at_ms % 1000:03}Z"
    with opened(path) as db:
        db.execute(
            "INSERT INTO sdk_sessions (content_session_id, memory_session_id, project, user_prompt, started_at,"
            " started_at_epoch, prompt_counter) VALUES (?, ?, ?, ?, ?, ?, 1)",
            (f"content-{session}", f"memory-{session}", project, f"Begin {session}", stamp, at_ms),
        )
        db.execute(
            "INSERT INTO user_prompts (content_session_id, prompt_number, prompt_text, created_at, created_at_epoch)"
            " VALUES (?, 1, ?, ?, ?)",
            (f"content-{session}", f"Begin {session}", stamp, at_ms),
        )
        db.executemany(
            "INSERT INTO observations (memory_session_id, project, type, title, narrative, facts, prompt_number,"
            " content_hash, created_at, created_at_epoch) VALUES (?, ?, 'discovery', ?, ?, '[]', 1, ?, ?, ?)",
            [
                (
                    f"memory-{session}",
                    project,
                    title := f"{session} finding {number}",
                    f"What {session} found out, number {number}. " * 5,
                    hashlib.sha256(title.encode()).hexdigest()[:16],
                    stamp,
                    at_ms + number,
                )
                for number in range(observations)
            ],
        )
        db.execute(
            "INSERT INTO session_summaries (memory_session_id, project, request, learned, prompt_number, created_at,"
            " created_at_epoch) VALUES (?, ?, ?, ?, 1, ?, ?)",
            (f"memory-{session}", project, f"Begin {session}", f"{session} is done", stamp, at_ms),
        )


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the tables that people's memory is in, in the order of their ids."""
    with opened(path) as db:
        return {table: db.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in TABLES}  # noqa: S608


def sessions(path: Path) -> set[str]:
    """The names that `remember` was given; none where there is no database."""
    if not path.exists():
        return set()
    with opened(path) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sdk_sessions'").fetchone() is None:
            return set()
        return {name.removeprefix("content-") for (name,) in db.execute("SELECT content_session_id FROM sdk_sessions")}


def found(path: Path, word: str) -> int:
    """How many observations the search table finds by `word`."""
    with opened(path) as db:
        return int(
            db.execute("SELECT count(*) FROM observations_fts WHERE observations_fts MATCH ?", (word,)).fetchone()[0]
        )


def check_whole(path: Path) -> None:
    """Fail unless the database, its foreign keys and its search tables are consistent."""
    with opened(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        for table in _SEARCHED:
            db.execute(f"INSERT INTO {table}_fts ({table}_fts) VALUES ('integrity-check')")  # noqa: S608
