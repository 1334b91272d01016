"""Entries by what they are about, page by page, over HTTP and on the command line."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.real_postgres import PostgresServer
from tests.real_runtime import Replica, all_pages, refused, told
from typer.testing import CliRunner, Result

from bloom.cli.main import app

ACTIONS = ("task_created", "worker_registered", "key_created")


@pytest.fixture(scope="module")
def log(postgres_server: PostgresServer) -> Iterator[Replica]:
    """A log of 300 entries, one each second from 2026-11-27 on, of three actions and four actors."""
    with postgres_server.database() as database, Replica(database.url) as replica:
        database.edit("""
            insert into bloom.audit_log (at, action, entity_type, entity_id, actor, detail)
            select '2026-11-27 00:00+00'::timestamptz + n * interval '1 s',
                   (array['task_created', 'worker_registered', 'key_created'])[n % 3 + 1],
                   (array['task', 'worker', 'key'])[n % 3 + 1], 'e' || n / 10, 'key:' || n % 4, json_build_object('n', n)
            from generate_series(0, 299) n""".replace("%", "%%"))  # fmt: skip
        yield replica


START_MS = 1_795_737_600_000

WANTED: list[tuple[dict[str, str | int], set[int]]] = [
    ({}, set(range(300))),
    ({"action": "key_created"}, set(range(2, 300, 3))),
    ({"actor": "key:1"}, set(range(1, 300, 4))),
    ({"entity_type": "worker"}, set(range(1, 300, 3))),
    ({"entity_id": "e7"}, set(range(70, 80))),
    ({"entity_id": "e7", "entity_type": "task"}, {72, 75, 78}),
    ({"since": START_MS + 290_000}, set(range(290, 300))),
    ({"since": START_MS + 289_001}, set(range(290, 300))),
    ({"until": START_MS + 5_000}, set(range(5))),
    ({"until": START_MS + 5_001}, set(range(6))),
    ({"since": START_MS + 100_000, "until": START_MS + 200_000, "action": "task_created"}, set(range(102, 200, 3))),
    ({"since": START_MS, "until": START_MS}, set()),
    ({"actor": "key:1", "action": "task_created", "entity_id": "e3"}, {33}),
    ({"actor": "nobody"}, set()),
    ({"actor": ""}, set()),
    ({"entity_id": "' or true --"}, set()),
    ({"action": "task_dead"}, set()),
]


def numbers(entries: list[dict[str, Any]]) -> list[int]:
    return [entry["detail"]["n"] for entry in entries]


@pytest.mark.parametrize(("wanted", "expected"), WANTED)
def test_the_wanted_entries_come_newest_first_whatever_the_pages(
    log: Replica, wanted: dict[str, str | int], expected: set[int]
) -> None:
    for limit in (1000, 7):
        found, sizes = all_pages(log, "/audit", limit=limit, **wanted)
        assert numbers(found) == sorted(expected, reverse=True)
        assert all(size == limit for size in sizes[:-1])


@pytest.mark.parametrize(
    ("name", "value"),
    [("action", "other"), ("action", ""), ("action", "TASK_CREATED"), ("action", "task_created,key_created")]
    + [("actor", "\x00"), ("entity_type", "a\x00"), ("entity_id", "\x00")]
    + [(name, value) for name in ("since", "until") for value in ("-1", "1.5", "abc", "", "2026-11-27", "9" * 16)],
)
def test_a_filter_that_means_nothing_is_refused_by_name(log: Replica, name: str, value: str) -> None:
    answer = log.get("/audit", **{name: value})
    assert refused(answer, 400) == "invalid" and name in answer.json()["error"]["fieldErrors"]


def bloom(log: Replica, *arguments: str) -> Result:
    """`bloom audit list` with these arguments."""
    return CliRunner().invoke(app, ["audit", "list", "--runtime", log.url, *arguments], catch_exceptions=False)


def test_the_command_lists_what_it_is_asked_for(log: Replica) -> None:
    for_scripts = bloom(log, "--json", "--since", "2026-11-27T00:04:50Z", "--all")
    assert for_scripts.exit_code == 0 and numbers(json.loads(for_scripts.stdout)) == list(range(299, 289, -1))
    options = (
        "--action",
        "key_created",
        "--actor",
        "key:1",
        "--entity-type",
        "key",
        "--until",
        "2026-11-27T02:01+02:00",
    )
    for_people = bloom(log, *options, "--limit", "3")
    lines = for_people.stdout.splitlines()
    assert for_people.exit_code == 0 and lines[0].split() == ["ID", "WHEN", "ACTION", "ACTOR", "KIND", "OF", "DETAIL"]
    assert [line.split()[-1] for line in lines[1:]] == ["53}", "41}", "29}"]
    nothing = bloom(log, "--entity-id", "none")
    assert (nothing.exit_code, nothing.stdout) == (0, "no such entries\n")


def test_the_command_says_what_is_wrong_with_its_options(log: Replica) -> None:
    unknown = bloom(log, "--action", "dance")
    assert unknown.exit_code == 2 and "task_created" in unknown.stderr
    no_time = bloom(log, "--since", "yesterday")
    assert no_time.exit_code == 2 and "--since must be a day or a time" in no_time.stderr


def test_a_page_without_a_filter_is_as_before(log: Replica) -> None:
    assert numbers(told(log.get("/audit", limit=3))) == [299, 298, 297]
