"""Merging two databases of claude-mem: what is found again, what wins, what is told, and what is refused."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.sync.claude_mem import EPOCH_MS, check_whole, found, opened, remember, sessions
from tests.sync.histories import copy

from bloom.sync.merge import merge_databases
from bloom.sync.merge_report import MergeReport
from bloom.sync.merge_schema import MergeRefused


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A base with one session, and the databases of two machines that come from it."""
    base = tmp_path / "base.db"
    remember(base, "old")
    copy(base, tmp_path / "base.db.copy")
    return tmp_path / "base.db.copy", copy(base, tmp_path / "local.db"), copy(base, tmp_path / "remote.db")


def _merge(local: Path, remote: Path, base: Path | None = None) -> tuple[Path, MergeReport]:
    for path in (local, remote):
        with opened(path) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    result = local.with_name("result.db")
    return result, merge_databases(local, remote, result, base)


def _run(path: Path, *statements: str) -> None:
    with opened(path) as db:
        for statement in statements:
            db.execute(statement)


def _rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return [row[0] if len(row) == 1 else row for row in db.execute(query)]


def test_new_rows_of_both_sides_are_kept_found_by_search_and_told_by_table(sides: tuple[Path, Path, Path]) -> None:
    base, local, remote = sides
    remember(local, "laptop", observations=3)
    remember(remote, "server", observations=5)

    result, report = _merge(local, remote, base)

    check_whole(result)
    assert sessions(result) == {"old", "laptop", "server"}
    assert (found(result, "laptop"), found(result, "server")) == (3, 5)
    told = {table["table"]: table for table in report.as_json()["tables"]}["observations"]
    assert (told["on_both_sides"], told["only_local"], told["only_remote"], told["rows"]) == (2, 3, 5, 10)
    assert any(line.split() == ["observations", "2", "3", "5", "0", "10"] for line in report.lines())
    assert (report.unknown_to_remote, report.added_locally) == (6, 8)


def test_local_rows_keep_their_numbers_since_a_running_claude_mem_knows_them_by_those(
    sides: tuple[Path, Path, Path],
) -> None:
    base, local, remote = sides
    remember(local, "laptop")
    remember(remote, "server")

    result, _ = _merge(local, remote, base)

    query = "SELECT id, content_session_id FROM sdk_sessions ORDER BY id"
    assert _rows(result, query)[:2] == _rows(local, query)


def test_a_change_of_one_side_is_kept_whatever_it_changes(sides: tuple[Path, Path, Path]) -> None:
    base, local, remote = sides
    _run(local, "UPDATE observations SET title = 'aaa' WHERE id = 1", "UPDATE user_prompts SET prompt_text = 'local'")
    _run(remote, "UPDATE observations SET title = 'AAA' WHERE id = 2", "UPDATE session_summaries SET learned = NULL")

    result, report = _merge(local, remote, base)

    assert _rows(result, "SELECT title FROM observations") == ["aaa", "AAA"]
    assert _rows(result, "SELECT prompt_text FROM user_prompts") == ["local"]
    assert _rows(result, "SELECT learned FROM session_summaries") == [None]
    assert report.conflicts_total == 0
    check_whole(result)


@pytest.mark.parametrize("base_is_known", [True, False])
def test_of_a_row_that_both_sides_changed_the_newer_stays_and_both_are_told(
    sides: tuple[Path, Path, Path], base_is_known: bool
) -> None:
    base, local, remote = sides
    change = "UPDATE sdk_sessions SET status = '{}', completed_at_epoch = {}, custom_title = '{}'"
    _run(local, change.format("completed", EPOCH_MS + 1, "of the laptop"))
    _run(remote, change.format("failed", EPOCH_MS + 2, "of the server"))

    result, report = _merge(local, remote, base if base_is_known else None)

    assert _rows(result, "SELECT status, custom_title FROM sdk_sessions") == [("failed", "of the server")]
    told = {conflict.column: conflict for conflict in report.conflicts}
    assert (told["custom_title"].local, told["custom_title"].remote) == ("of the laptop", "of the server")
    assert (told["custom_title"].kept, told["custom_title"].row) == ("remote", "content-old")
    assert "of the laptop" in "\n".join(report.lines())


def test_a_session_that_went_on_on_both_machines_is_one_session_with_the_rows_of_both(
    sides: tuple[Path, Path, Path],
) -> None:
    base, local, remote = sides
    for path, own_id, at in ((local, "laptop-1", 1), (remote, "server-1", 2)):
        _run(path, f"UPDATE sdk_sessions SET memory_session_id = '{own_id}', started_at_epoch = {EPOCH_MS + at}")
        _run(
            path,
            "INSERT INTO observations (memory_session_id, project, type, title, created_at, created_at_epoch)"
            f" VALUES ('{own_id}', 'demo', 'change', 'at {own_id}', '', {EPOCH_MS})",
        )

    result, _ = _merge(local, remote, base)

    check_whole(result)
    assert _rows(result, "SELECT memory_session_id FROM sdk_sessions") == ["server-1"]
    assert _rows(result, "SELECT DISTINCT memory_session_id FROM observations") == ["server-1"]
    assert set(_rows(result, "SELECT title FROM observations")) >= {"at laptop-1", "at server-1"}


def test_two_sessions_that_share_a_memory_id_both_stay_and_their_rows_point_at_the_one_that_keeps_it(
    tmp_path: Path,
) -> None:
    local, remote = tmp_path / "local.db", tmp_path / "remote.db"
    remember(local, "real")
    remember(remote, "real")
    _run(remote, "PRAGMA foreign_keys = OFF", "DELETE FROM user_prompts")
    _run(remote, "UPDATE sdk_sessions SET content_session_id = memory_session_id")

    result, _ = _merge(local, remote)

    check_whole(result)
    assert sessions(result) == {"real", "memory-real"}
    assert _rows(result, "SELECT count(*) FROM observations") == [2]


def test_integers_that_point_at_rows_are_pointed_at_their_new_numbers(sides: tuple[Path, Path, Path]) -> None:
    base, local, remote = sides
    for path, name in ((local, "laptop"), (remote, "server")):
        remember(path, name)
        _run(
            path,
            "INSERT INTO observation_feedback (observation_id, signal_type, session_db_id, created_at_epoch)"
            f" SELECT max(o.id), '{name}', (SELECT max(id) FROM sdk_sessions), 1 FROM observations o",
        )

    result, _ = _merge(local, remote, base)

    query = (
        "SELECT f.signal_type, o.title, s.content_session_id FROM observation_feedback f JOIN observations o"
        " ON o.id = f.observation_id JOIN sdk_sessions s ON s.id = f.session_db_id ORDER BY 1"
    )
    assert _rows(result, query) == [
        ("laptop", "laptop finding 1", "content-laptop"),
        ("server", "server finding 1", "content-server"),
    ]


def test_rows_of_unknown_tables_are_united_by_their_key_or_else_by_content_and_the_report_says_so(
    sides: tuple[Path, Path, Path],
) -> None:
    base, local, remote = sides
    tables = (
        "CREATE TABLE named (name TEXT PRIMARY KEY, value, updated_at_epoch INTEGER)",
        "CREATE TABLE compact (a INTEGER, b BLOB, note TEXT, PRIMARY KEY (a, b)) WITHOUT ROWID",
        "CREATE TABLE numbered (id INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER REFERENCES numbered (id), word TEXT)",
        "CREATE TABLE loose (word TEXT)",
        "CREATE TABLE bare (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "INSERT INTO bare VALUES (1), (2)",
    )
    for path, own, at in ((local, "x", 2), (remote, "y", 1)):
        _run(path, *tables)
        _run(path, f"INSERT INTO named VALUES ('both', '{own}', {at}), ('{own}', x'00ff', 0)")
        _run(path, f"INSERT INTO compact VALUES (1, x'00', 'same'), (2, CAST('{own}' AS BLOB), NULL)")
        _run(path, f"INSERT INTO numbered VALUES (1, NULL, 'root'), (2, 1, '{own}'), (3, 2, 'under {own}')")
        _run(path, f"INSERT INTO loose VALUES ('twice'), ('twice'), ('{own}')")

    result, report = _merge(local, remote, base)

    assert set(_rows(result, "SELECT name, value FROM named")) == {("both", "x"), ("x", b"\0\xff"), ("y", b"\0\xff")}
    assert _rows(result, "SELECT count(*) FROM compact") == [3]
    tree = "SELECT n.word, p.word FROM numbered n LEFT JOIN numbered p ON p.id = n.parent"
    assert set(_rows(result, tree)) == {
        *(("root", None), ("x", "root"), ("y", "root")),
        *(("under x", "x"), ("under y", "y")),
    }
    assert sorted(_rows(result, "SELECT word FROM loose")) == ["twice", "twice", "x", "y"]
    by = {table.table: table.identified_by for table in report.tables if not table.known}
    assert by == {
        "named": "key name",
        "compact": "key a, b",
        "numbered": "content",
        "loose": "content",
        "bare": "content",
    }
    assert any("loose" in line and "by content" in line for line in report.lines())


@pytest.mark.parametrize("newer", ["local", "remote"])
def test_between_versions_of_claude_mem_the_result_has_the_newer_structure_and_the_columns_of_both(
    sides: tuple[Path, Path, Path], newer: str
) -> None:
    _, local, remote = sides
    remember(local, "laptop")
    remember(remote, "server")
    new, old = (local, remote) if newer == "local" else (remote, local)
    _run(
        new,
        "ALTER TABLE observations ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm'",
        "CREATE TABLE moods (name TEXT PRIMARY KEY)",
        "INSERT INTO moods VALUES ('calm')",
        "INSERT INTO schema_versions (version, applied_at) VALUES (36, '')",
    )
    _run(old, "ALTER TABLE user_prompts ADD COLUMN of_the_old TEXT", "UPDATE user_prompts SET of_the_old = 'kept'")

    result, report = _merge(local, remote)

    check_whole(result)
    assert sessions(result) == {"old", "laptop", "server"}
    assert _rows(result, "SELECT DISTINCT mood FROM observations") == ["calm"]
    assert _rows(result, "SELECT max(version) FROM schema_versions") == [36]
    assert "kept" in _rows(result, "SELECT of_the_old FROM user_prompts")
    assert any("older claude-mem (schema 35)" in note for note in report.notes)


def test_text_that_is_no_utf8_comes_over_byte_for_byte(sides: tuple[Path, Path, Path]) -> None:
    base, local, remote = sides
    remember(remote, "größer")
    _run(remote, "UPDATE observations SET title = CAST(x'41ff42' AS TEXT)", "UPDATE user_prompts SET prompt_text = 'ü'")

    result, _ = _merge(local, remote, base)

    check_whole(result)
    assert _rows(result, "SELECT DISTINCT hex(title), typeof(title) FROM observations") == [("41FF42", "text")]
    assert _rows(result, "SELECT DISTINCT prompt_text FROM user_prompts") == ["ü"]
    assert sessions(result) == {"old", "größer"}


def test_databases_that_differ_too_much_are_refused_with_what_to_do(sides: tuple[Path, Path, Path]) -> None:
    _, local, remote = sides
    _run(remote, "ALTER TABLE sdk_sessions RENAME COLUMN content_session_id TO claude_session_id")

    with pytest.raises(MergeRefused, match="update claude-mem on both machines"):
        _merge(local, remote)
    assert not local.with_name("result.db").exists()


def test_what_is_no_database_of_claude_mem_is_refused(sides: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, local, _ = sides
    garbage, other = tmp_path / "garbage.db", tmp_path / "other.db"
    garbage.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 20)
    _run(other, "CREATE TABLE songs (name TEXT)")

    for remote in (garbage, other):
        with pytest.raises(MergeRefused):
            merge_databases(local, remote, tmp_path / "result.db")
        assert not (tmp_path / "result.db").exists()


def test_many_conflicts_are_counted_and_long_values_cut() -> None:
    from bloom.sync.merge_report import MAX_CONFLICTS_TOLD, Conflict

    report = MergeReport()
    for number in range(MAX_CONFLICTS_TOLD + 5):
        report.add_conflict(Conflict("observations", str(number), "text", "a" * 10_000, b"\xff", "local"))

    told = report.as_json()
    assert (told["conflicts_total"], len(told["conflicts"])) == (MAX_CONFLICTS_TOLD + 5, MAX_CONFLICTS_TOLD)
    assert len(told["conflicts"][0]["local"]) < 1000
    assert told["conflicts"][0]["remote"] == "ff"
    assert "and 5 more values that both sides changed" in list(report.lines())
