"""`bloom audit verify` and `export`: what they say, their exit codes, and that an export can be verified without BLOOM."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.audit.logs import fill, seal
from tests.audit.test_append_only import DOCS
from tests.real_postgres import FreshDatabase, PostgresServer
from typer.testing import CliRunner, Result

from bloom.audit.chain import Findings, check_lines
from bloom.cli.main import app

COUNT = 1200


@pytest.fixture(scope="module")
def log(postgres_server: PostgresServer) -> Iterator[FreshDatabase]:
    """A log of 1,200 sealed entries and 3 that are not."""
    with postgres_server.database() as database:
        fill(database, COUNT)
        assert seal(database) == COUNT
        fill(database, 3)
        yield database


@pytest.fixture(scope="module")
def exported(log: FreshDatabase, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole log as a file."""
    path = tmp_path_factory.mktemp("export") / "audit.jsonl"
    assert run(log, "export", "--output", str(path)).exit_code == 0
    return path


def run(log: FreshDatabase | None, *arguments: str, **environment: str) -> Result:
    """`bloom audit ARGUMENTS` on the database of the log."""
    where = {} if log is None else {"DATABASE_URL": log.url}
    return CliRunner().invoke(app, ["audit", *arguments], env={**where, **environment}, catch_exceptions=False)


def told(log: FreshDatabase | None, *arguments: str, **environment: str) -> dict[str, Any]:
    """What `verify --json` says."""
    return json.loads(run(log, "verify", "--json", *arguments, **environment).stdout)


def test_verify_tells_what_is_sealed_and_how_long_the_tail_is(log: FreshDatabase) -> None:
    answer = told(log)
    assert (answer["ok"], answer["sealed"], answer["first"], answer["last"]) == (True, COUNT, 1, COUNT)
    assert (answer["unsealed"], answer["broken"], answer["problems"]) == (3, 0, [])
    assert isinstance(answer["oldest_unsealed_sec"], float)
    for_people = run(log, "verify", "--expect", f"{COUNT}:{answer['hash']}")
    assert for_people.exit_code == 0
    assert f"{COUNT} sealed entries verified, numbers 1 to {COUNT}" in for_people.stdout
    assert f"\n{COUNT}:{answer['hash']}\n3 entries wait for their seal" in for_people.stdout


def test_verify_of_a_log_without_entries_is_fine(database: FreshDatabase) -> None:
    assert (told(database)["sealed"], run(database, "verify").exit_code) == (0, 0)


def test_verify_ends_with_1_and_names_what_is_broken(log: FreshDatabase) -> None:
    with log.unguarded():
        before = log.value("select actor from bloom.audit_log where id = 700")
        log.edit("update bloom.audit_log set actor = 'x' where id = 700")
        broken = run(log, "verify")
        log.edit("update bloom.audit_log set actor = %(actor)s where id = 700", actor=before)
    assert broken.exit_code == 1
    assert "entry 700 (id 700) changed: the entry is not what was sealed" in broken.stdout
    assert run(log, "verify").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--expect", "12"), "--expect must be N:HASH"),
        (("--expect", "0:" + "0" * 64), "--expect must be N:HASH"),
        (("--expect", "1:" + "0" * 63), "--expect must be N:HASH"),
        (("--file", "/nowhere/x"), "--file /nowhere/x: No such file or directory"),
    ],
)
def test_wrong_usage_is_told(log: FreshDatabase, arguments: tuple[str, ...], says: str) -> None:
    refused = run(log, "verify", *arguments)
    assert refused.exit_code == 2 and says in refused.stderr


def test_a_hash_that_the_chain_does_not_have_is_found(log: FreshDatabase, exported: Path) -> None:
    for number in (1, 600, COUNT, COUNT + 1):
        for source in ((), ("--file", str(exported))):
            answer = told(log, *source, "--expect", f"{number}:{'0' * 64}")
            assert [(one["n"], one["what"]) for one in answer["problems"]] == [
                (number, "changed" if number <= COUNT else "removed")
            ]


def test_a_database_that_does_not_answer_is_exit_code_4(tmp_path: Path) -> None:
    away = run(None, "verify", DATABASE_URL=f"postgresql:///nothing?host={tmp_path}")
    assert away.exit_code == 4 and str(tmp_path) not in away.stderr


def test_an_export_has_every_sealed_entry_once_and_verifies_without_a_database(
    log: FreshDatabase, exported: Path
) -> None:
    entries = [json.loads(line) for line in exported.read_bytes().splitlines()]
    assert [entry["n"] for entry in entries] == list(range(1, COUNT + 1))
    stored = log.rows(
        "select id::text, detail::text as detail, entity_id from bloom.audit_log order by tx, audit_log.id"
    )
    assert [(e["id"], e["detail"], e["entity_id"]) for e in entries] == [tuple(row.values()) for row in stored[:COUNT]]
    answer = told(None, "--file", str(exported))
    assert answer["ok"] and answer["hash"] == told(log)["hash"] and "unsealed" not in answer
    argv = [sys.executable, "-m", "bloom", "audit", "verify", "--file", "-"]
    piped = subprocess.run(argv, input=exported.read_bytes(), capture_output=True, timeout=60)
    assert piped.returncode == 0 and f"{COUNT} sealed entries verified".encode() in piped.stdout
    assert not exported.with_name("audit.jsonl.part").exists()


def test_an_export_of_a_time_has_its_run_of_entries_and_goes_on_from_the_one_before(
    log: FreshDatabase, tmp_path: Path
) -> None:
    early, late = tmp_path / "early.jsonl", tmp_path / "late.jsonl"
    border = "2026-11-27T23:10:00.3Z"
    assert run(log, "export", "--until", border, "-o", str(early)).exit_code == 0
    assert run(log, "export", "--since", border, "-o", str(late)).exit_code == 0
    middle = run(log, "export", "--since", "2026-11-27T23:00:10Z", "--until", "2026-11-27T23:00:20Z")
    assert [json.loads(line)["n"] for line in middle.stdout.splitlines()] == list(range(10, 20))
    first, second = told(None, "--file", str(early)), told(None, "--file", str(late))
    assert (first["first"], first["last"], second["first"], second["last"]) == (1, 600, 601, COUNT)
    both = told(None, "--file", str(early), "--file", str(late))
    assert both["ok"] and both["sealed"] == COUNT
    assert told(None, "--file", str(late), "--file", str(early))["ok"] is False
    for nothing in (("--since", "2027-01-01"), ("--until", "2026-11-01")):
        empty = run(log, "export", *nothing)
        assert (empty.exit_code, empty.stdout) == (0, "")


def test_an_export_that_cannot_be_written_is_told(log: FreshDatabase) -> None:
    refused = run(log, "export", "--output", "/nowhere/audit.jsonl")
    assert refused.exit_code == 2 and "--output /nowhere/audit.jsonl: No such file" in refused.stderr


Lines = list[bytes]


def edited(line: bytes, **fields: Any) -> bytes:
    """The line with other fields."""
    return json.dumps({**json.loads(line), **fields}, ensure_ascii=False).encode() + b"\n"


TAMPERING: dict[str, tuple[Callable[[Lines], Lines], tuple[int, str]]] = {
    "the first removed": (lambda lines: lines[1:], (0, "")),
    "one removed": (lambda lines: lines[:99] + lines[100:], (100, "removed")),
    "one changed": (lambda lines: [*lines[:99], edited(lines[99], actor="x"), *lines[100:]], (100, "changed")),
    "the first changed": (lambda lines: [edited(lines[0], detail="{}"), *lines[1:]], (1, "changed")),
    "the last changed": (lambda lines: [*lines[:-1], edited(lines[-1], action="x")], (COUNT, "changed")),
    "one twice": (lambda lines: [*lines[:100], lines[99], *lines[100:]], (100, "added")),
    "two exchanged": (lambda lines: [*lines[:99], lines[100], lines[99], *lines[101:]], (100, "removed")),
    "one added": (lambda lines: [*lines[:100], edited(lines[99], n=101), *lines[100:]], (101, "changed")),
    "renumbered": (
        lambda lines: [*lines[:99], *(edited(line, n=n) for n, line in enumerate(lines[100:], 100))],
        (100, "changed"),
    ),
    "no JSON": (lambda lines: [*lines[:99], b"{\n", *lines[99:]], (100, "unreadable")),
    "another JSON": (lambda lines: [*lines[:99], b"[1]\n", *lines[99:]], (100, "unreadable")),
    "too deep": (lambda lines: [*lines[:99], b"[" * 100_000 + b"\n", *lines[99:]], (100, "unreadable")),
    "a number that is none": (lambda lines: [*lines[:99], edited(lines[99], n="100"), *lines[100:]], (100, "unreadable")),
    "a hash that is none": (lambda lines: [*lines[:99], edited(lines[99], hash="x"), *lines[100:]], (100, "unreadable")),
    "a lone surrogate": (
        lambda lines: [*lines[:99], lines[99].replace(b"key:alice", b"\\ud800").replace(b"Gr", b"\\ud800"), *lines[100:]],
        (100, "unreadable"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TAMPERING)
def test_what_was_done_to_an_export_is_found_at_its_place(exported: Path, kind: str) -> None:
    tamper, expected = TAMPERING[kind]
    found = Findings()
    for _ in check_lines(found, tamper(exported.read_bytes().splitlines(keepends=True))):
        pass
    if kind == "the first removed":  # a run that begins later is whole in itself; its first number tells
        assert (found.problems, found.first_n) == ([], 2)
    else:
        assert (found.problems[0].n, found.problems[0].what) == expected, found.problems


def test_the_program_in_the_docs_verifies_an_export(exported: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    lines = exported.read_bytes().splitlines(keepends=True)

    def verify(content: Lines) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-c", program], input=b"".join(content), capture_output=True, timeout=60)

    assert verify(lines).returncode == 0
    broken = verify([*lines[:99], edited(lines[99], actor="x"), *lines[100:]])
    assert broken.returncode == 1 and b"broken at entry 100" in broken.stderr
