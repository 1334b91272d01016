"""Which session continues a context."""

import json
from pathlib import Path

import pytest

from bloom.worker.executors.claude_sessions import SessionPlan, Sessions

FIRST = "00000000-0000-4000-8000-000000000001"
SECOND = "00000000-0000-4000-8000-000000000002"
LAST = "00000000-0000-4000-8000-00000000000a"


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / "sessions")


def test_a_context_begins_without_a_session_and_goes_on_from_the_one_that_is_remembered(
    sessions: Sessions, tmp_path: Path
) -> None:
    with sessions.planned("context", tmp_path) as plan:
        assert plan == SessionPlan()
    sessions.remember("context", tmp_path, FIRST, LAST)
    sessions.remember("context", tmp_path, SECOND, LAST)
    with sessions.planned("context", tmp_path) as plan:
        assert plan == SessionPlan(SECOND, message_id=LAST)


def test_it_is_remembered_across_restarts(sessions: Sessions, tmp_path: Path) -> None:
    sessions.remember("context", tmp_path, FIRST, LAST)
    with Sessions(tmp_path / "sessions").planned("context", tmp_path) as plan:
        assert plan == SessionPlan(FIRST, message_id=LAST)


def test_contexts_and_directories_are_kept_apart(sessions: Sessions, tmp_path: Path) -> None:
    sessions.remember("context", tmp_path, FIRST, LAST)
    (tmp_path / "other").mkdir()
    for context, directory in ("Context", tmp_path), ("context", tmp_path / "other"), ("context ", tmp_path):
        with sessions.planned(context, directory) as plan:
            assert plan == SessionPlan()


def test_a_session_that_is_being_written_is_forked_and_afterwards_not(sessions: Sessions, tmp_path: Path) -> None:
    sessions.remember("context", tmp_path, FIRST, LAST)
    with sessions.planned("context", tmp_path) as plan:
        assert not plan.fork
        with sessions.planned("context", tmp_path) as second, sessions.planned("context", tmp_path) as third:
            assert second == third == SessionPlan(FIRST, fork=True, message_id=LAST)
            sessions.remember("context", tmp_path, SECOND, LAST)
        with sessions.planned("context", tmp_path) as fourth:
            assert fourth == SessionPlan(SECOND, message_id=LAST)
    sessions.remember("context", tmp_path, FIRST, LAST)
    with sessions.planned("context", tmp_path) as plan:
        assert plan == SessionPlan(FIRST, message_id=LAST)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"session_id": "--help"}', '{"session_id": 3}'])
def test_a_damaged_memory_means_a_new_session(sessions: Sessions, tmp_path: Path, content: str) -> None:
    sessions.remember("context", tmp_path, FIRST, LAST)
    (file,) = (tmp_path / "sessions").iterdir()
    assert json.loads(file.read_text())["session_id"] == FIRST
    file.write_text(content)
    with sessions.planned("context", tmp_path) as plan:
        assert plan == SessionPlan()


def test_a_session_without_a_message_goes_on_from_its_end(sessions: Sessions, tmp_path: Path) -> None:
    sessions.remember("context", tmp_path, FIRST, None)
    with sessions.planned("context", tmp_path) as plan:
        assert plan == SessionPlan(FIRST)
