"""Copies of a live SQLite database, and another state brought into it."""

import sqlite3
from pathlib import Path

import claude_mem
import pytest

from bloom.sync import database as subject
from bloom.sync.database import bring_in, count_rows, fingerprint, settle, take_snapshot
from bloom.sync.errors import BadDatabase, DatabaseBusy, DatabaseChanged


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "here" / "claude-mem.db"
    claude_mem.remember(path, "one", observations=300)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A file to bring in."""
    path = tmp_path / "other.db"
    claude_mem.remember(path, "other", observations=300)
    take_snapshot(path, tmp_path / "snapshot.db")
    return tmp_path / "snapshot.db"


def test_a_snapshot_is_private_sound_and_counted(memory: Path, tmp_path: Path) -> None:
    into = tmp_path / "copy.db"
    taken = take_snapshot(memory, into)
    assert into.stat().st_mode & 0o777 == 0o600
    assert taken.db_size == into.stat().st_size
    assert taken.counts.items() >= {"observations": 300, "session_summaries": 1, "user_prompts": 1}.items()
    assert claude_mem.rows(into) == claude_mem.rows(memory)


def test_the_same_rows_give_the_same_hash_however_they_came_to_be_stored(memory: Path, tmp_path: Path) -> None:
    first = take_snapshot(memory, tmp_path / "1.db").sha256
    bring_in(tmp_path / "1.db", tmp_path / "b.db", expected="")
    with sqlite3.connect(tmp_path / "b.db") as db:
        db.execute("PRAGMA user_version")
        db.execute("PRAGMA journal_mode = DELETE")
    db.close()
    claude_mem.remember(tmp_path / "c.db", "something else", observations=900)
    bring_in(tmp_path / "1.db", tmp_path / "c.db", expected=settle(tmp_path / "c.db"))
    for path in (memory, tmp_path / "b.db", tmp_path / "c.db"):
        assert take_snapshot(path, tmp_path / "again.db").sha256 == first


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_every_commit_changes_the_fingerprint_and_reading_does_not(memory: Path, mode: str) -> None:
    db = sqlite3.connect(memory, isolation_level=None)
    db.execute(f"PRAGMA journal_mode = {mode}")
    seen = [settle(memory)]
    for number in range(5):
        db.execute("UPDATE sdk_sessions SET prompt_counter = ?", (100 + number,))
        seen.append(settle(memory))
        assert settle(memory) == seen[-1]
        assert count_rows(memory)["observations"] == 300
        assert fingerprint(memory) == seen[-1]
    db.close()
    assert len(set(seen)) == 6


def test_a_settled_database_keeps_its_fingerprint_through_a_snapshot(memory: Path, tmp_path: Path) -> None:
    taken = take_snapshot(memory, tmp_path / "copy.db")
    assert taken.fingerprint == settle(memory)


def test_what_is_brought_in_is_all_there_is(memory: Path, other: Path) -> None:
    bring_in(other, memory, expected=settle(memory))
    assert claude_mem.sessions(memory) == {"other"}
    claude_mem.check_whole(memory)


def test_a_write_after_the_copy_was_taken_stops_the_replacement(memory: Path, other: Path) -> None:
    expected = settle(memory)
    claude_mem.remember(memory, "late")
    with pytest.raises(DatabaseChanged):
        bring_in(other, memory, expected=expected)
    assert claude_mem.sessions(memory) == {"one", "late"}


def test_a_write_at_the_moment_of_the_lock_stops_the_replacement(
    memory: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = settle(memory)
    looks: list[str] = []

    def look(path: Path) -> str:
        looks.append(path.name)
        if len(looks) == 1:
            seen = fingerprint(path)
            claude_mem.remember(memory, "late")
            return seen
        return fingerprint(path)

    monkeypatch.setattr(subject, "fingerprint", look)
    with pytest.raises(DatabaseChanged):
        bring_in(other, memory, expected=expected)
    assert len(looks) == 2
    assert claude_mem.sessions(memory) == {"one", "late"}


def test_a_database_that_stays_locked_is_left_as_it_is(
    memory: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_BUSY_SEC", 0)
    expected = settle(memory)
    with claude_mem.opened(memory) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusy):
            bring_in(other, memory, expected=expected)
        writer.rollback()
    assert claude_mem.sessions(memory) == {"one"}


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_another_page_size_is_no_obstacle(tmp_path: Path, other: Path, mode: str) -> None:
    path = tmp_path / "small.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA page_size = 1024")
        db.execute("CREATE TABLE t (x)")
        db.execute(f"PRAGMA journal_mode = {mode}")
    db.close()
    bring_in(other, path, expected=settle(path))
    assert claude_mem.sessions(path) == {"other"}
    claude_mem.check_whole(path)


def test_a_tiny_database_comes_in_too(tmp_path: Path, memory: Path) -> None:
    tiny = tmp_path / "tiny.db"
    with sqlite3.connect(tiny) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    bring_in(tiny, memory, expected=settle(memory))
    assert count_rows(memory) == {"observations": 0, "session_summaries": 0, "user_prompts": 0, "tables": 0}


def test_a_file_that_is_no_database_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(BadDatabase) as caught:
        take_snapshot(path, tmp_path / "copy.db")
    assert caught.value.code == "not_whole"
