"""Whatever is done to the audit log behind the runtime's back is found, and named by number and id."""

from typing import LiteralString

import pytest
from tests.audit.logs import fill, problems, seal, verdict
from tests.real_postgres import FreshDatabase

from bloom.audit import sealing

COUNT = 100

CHANGES: dict[str, tuple[LiteralString, list[tuple[int, int | None, str]]]] = {
    "an action": ("update bloom.audit_log set action = 'task_dead' where id = 1", [(1, 1, "changed")]),
    "a time by a microsecond": (
        "update bloom.audit_log set at = at + interval '1 us' where id = 57",
        [(57, 57, "changed")],
    ),
    "the spelling of a detail": (
        "update bloom.audit_log set detail = (detail::text || ' ')::json where id = 100",
        [(100, 100, "changed")],
    ),
    "an actor into one that looks alike": (
        "update bloom.audit_log set actor = normalize(actor, nfc) where id = 60",
        [(60, 60, "changed")],
    ),
    "an actor and a thing that join to the same": (
        "update bloom.audit_log set entity_id = 't2k', actor = 'ey:alice' where id = 2",
        [(2, 2, "changed")],
    ),
    "two that change places": (
        "update bloom.audit_log set entity_id = case id when 21 then 't22' else 't21' end where id in (21, 22)",
        [(21, 21, "changed"), (22, 22, "changed")],
    ),
    "the first removed": ("delete from bloom.audit_log where id = 1", [(1, 1, "removed")]),
    "the last removed": ("delete from bloom.audit_log where id = 100", [(100, 100, "removed")]),
    "all of a seal removed": (
        "delete from bloom.audit_log where id between 11 and 20",
        [(n, n, "removed") for n in range(11, 21)],
    ),
    "one added among the others": (
        """insert into bloom.audit_log (id, tx, action, entity_type, entity_id, actor) overriding system value
           select 1000, tx, 'a', 't', 'i', 'w' from bloom.audit_log where id = 33""",
        [(51, 1000, "added")],
    ),
    "one added before all others": (
        """insert into bloom.audit_log (id, tx, action, entity_type, entity_id, actor) overriding system value
           values (1000, '1', 'a', 't', 'i', 'w')""",
        [(1, 1000, "added")],
    ),
    "one moved to the end": (
        "update bloom.audit_log set tx = pg_current_xact_id() where id = 40",
        [(40, 40, "removed")],
    ),
    "a seal": ("update bloom.audit_seals set hash = sha256('x') where first_n = 31", [(31, None, "seal")]),
    "a seal's marks": (
        "update bloom.audit_seals set marks = overlay(marks placing '\\x00' from 1) where first_n = 31",
        [],
    ),
    "a seal removed": ("delete from bloom.audit_seals where first_n = 31", [(31, None, "seal")]),
}


@pytest.fixture
def log(database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> FreshDatabase:
    """A log of a hundred entries, of two transactions, in ten seals."""
    monkeypatch.setattr(sealing, "MOST_ENTRIES", 10)
    for _ in range(2):
        fill(database, COUNT // 2)
    assert seal(database) == COUNT and problems(database) == []
    return database


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_found_and_named(log: FreshDatabase, change: str) -> None:
    statement, expected = CHANGES[change]
    with log.unguarded():
        assert log.edit(statement) > 0
    assert problems(log) == expected


def test_each_entry_is_watched(log: FreshDatabase) -> None:
    with log.unguarded():
        log.edit("update bloom.audit_log set actor = actor || '.'")
    assert problems(log) == [(n, n, "changed") for n in range(1, COUNT + 1)]


def test_what_was_written_after_the_last_seal_is_told_as_the_tail(log: FreshDatabase) -> None:
    fill(log, 5)
    found = verdict(log)
    assert (found.found.count, found.unsealed, found.found.problems) == (COUNT, 5, [])


def test_a_chain_that_was_made_anew_does_not_have_the_hashes_that_were_known(log: FreshDatabase) -> None:
    """Who may change everything can seal everything again; a hash that was written down elsewhere tells."""
    known = {n: verdict(log).found.hash for n in (COUNT,)}
    with log.unguarded():
        log.edit("update bloom.audit_log set actor = 'nobody' where id = 95")
        log.edit("delete from bloom.audit_seals")
    assert seal(log) == COUNT and problems(log) == []
    assert problems(log, known) == [(COUNT, COUNT, "changed")]
    with log.unguarded():
        log.edit("delete from bloom.audit_seals where first_n > 90")
        log.edit("delete from bloom.audit_log where id > 90")
    assert problems(log) == []
    assert problems(log, known) == [(COUNT, None, "removed")]


def test_a_chain_that_was_made_anew_does_not_have_the_hashes_of_exported_files(log: FreshDatabase) -> None:
    log.edit("""insert into bloom.audit_exports (first_n, last_n, hash, object_key, exported_at)
                select 1, 50, hash, 'k', now() from bloom.audit_seals where last_n = 50""")
    assert problems(log) == []
    with log.unguarded():
        log.edit("update bloom.audit_log set actor = 'nobody' where id = 45")
        log.edit("delete from bloom.audit_seals")
    assert seal(log) == COUNT
    assert problems(log) == [(50, 50, "changed")]
