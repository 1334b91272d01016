"""Steps of the schema: told before they are done, taken back, and what a newer release leaves behind."""

import json
import re
from pathlib import Path

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import StartReplica
from typer.testing import CliRunner, Result

from bloom.cli.main import app
from bloom.db.migrate import HEAD, UnknownSchema, alembic, check_schema, current_revision, known_revisions, upgrade
from bloom.db.steps import downgrade, downgrade_step, locks_of, takes_away, upgrade_plan

FIRST_TAKEN_AWAY = "0009"
"""Older revisions were made before there was a release; from here on the rule of docs/upgrading.md holds."""


def bloom(database: FreshDatabase, *args: str) -> Result:
    """`bloom ARGS` on the database."""
    return CliRunner().invoke(app, args, env={"DATABASE_URL": database.url}, catch_exceptions=False)


def at_first(database: FreshDatabase) -> str:
    """Bring the database to the first revision; its name."""
    from alembic import command

    command.downgrade(alembic(database_url=database.url)[0], known_revisions()[-1])
    return known_revisions()[-1]


def test_each_revision_that_takes_something_away_says_which_releases_it_leaves_behind(
    empty_database: FreshDatabase,
) -> None:
    known = known_revisions()
    for number, step in enumerate(reversed(upgrade_plan(empty_database.url))):
        if step.oldest_program is not None:
            assert step.oldest_program in known[number + 1 :], f"{step.revision} names no revision before it"
        elif step.revision >= FIRST_TAKEN_AWAY:
            assert not takes_away(step.sql), f"{step.revision} takes away: see docs/upgrading.md"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("alter table bloom.tasks drop column turn", True),
        ("alter table bloom.tasks add column x integer not null", True),
        ("alter table bloom.tasks add column x integer not null default 0", False),
        ("alter table bloom.tasks add column x integer, add column y text", False),
        ("alter table bloom.tasks alter column x set not null", True),
        ("alter table bloom.tasks alter column x type bigint", True),
        ("alter table bloom.tasks rename column x to y", True),
        ("alter table bloom.tasks add check (x > 0)", True),
        ("drop table bloom.counts;", True),
        ("drop index bloom.tasks_fresh;", False),
        ("create unique index on bloom.tasks (x)", True),
        ("create table bloom.n (x text not null); create unique index n_x on bloom.n (x);", False),
        ("create table bloom.n (type text not null check (type in ('a')))", False),
        ("-- drop table bloom.counts;\ncreate index i on bloom.tasks (x)", False),
    ],
)
def test_what_takes_away_is_told_from_what_adds(sql: str, expected: bool) -> None:
    assert takes_away(sql) is expected


def test_locks_are_told_for_tables_that_were_there() -> None:
    told = locks_of("""create table bloom.n (x text); create index on bloom.n (x); alter table bloom.n add y text;
        alter table bloom.tasks add column z text; create index t_z on bloom.tasks (z);
        alter table bloom.leases add check (true); update bloom.workers set x = 1; drop index bloom.old;""")
    assert [line.partition(":")[0] for line in told] == [
        "bloom.tasks", "bloom.leases", "bloom.tasks", "bloom.workers", "bloom.old"
    ]  # fmt: skip
    assert "all rows are read" in told[1] and "index is built" in told[2]


def test_a_plan_tells_the_steps_and_takes_none(database: FreshDatabase) -> None:
    assert bloom(database, "db", "upgrade", "--plan").stdout == "the schema is up to date\n"
    first = at_first(database)
    steps = json.loads(bloom(database, "db", "upgrade", "--plan", "--json").stdout)
    assert [step["revision"] for step in steps] == list(reversed(known_revisions()))[1:]
    assert any("bloom.tasks: writers wait while an index is built" in step["locks"] for step in steps)
    told = bloom(database, "db", "upgrade", "--plan", "--sql").stdout
    assert "create table bloom.counts" in told and "only adds" in told
    assert current_revision(database.url) == first
    assert upgrade(database.url) == [step["revision"] for step in steps]


def test_the_last_step_is_taken_back_alone_and_when_it_is_meant(
    database: FreshDatabase, start_replica: StartReplica
) -> None:
    refused = bloom(database, "db", "downgrade", "--json")
    assert refused.exit_code == 2 and "--yes" in refused.stderr
    with start_replica():
        busy = bloom(database, "db", "downgrade", "--yes", "--json")
    assert busy.exit_code == 7 and json.loads(busy.stderr)["code"] == "database_in_use"
    assert current_revision(database.url) == HEAD
    done = bloom(database, "db", "downgrade", "--yes", "--json")
    assert json.loads(done.stdout) == {"taken_back": HEAD}
    assert current_revision(database.url) == known_revisions()[1]
    assert upgrade(database.url) == [HEAD]

    at_first(database)
    last = bloom(database, "db", "downgrade", "--yes", "--json")
    assert last.exit_code == 7 and json.loads(last.stderr)["code"] == "first_revision"


def test_each_step_can_be_taken_back_and_taken_again(database: FreshDatabase) -> None:
    for revision in known_revisions()[:-1]:
        step = downgrade_step(database.url)
        assert step.revision == revision
        downgrade(database.url, step)
    assert upgrade(database.url) == list(reversed(known_revisions()))[1:]


def of_a_newer_release(database: FreshDatabase, *, oldest_program: str) -> None:
    """Leave the database as a newer release would, on which releases from `oldest_program` on can run."""
    database.edit("update bloom.alembic_version set version_num = '9999'")
    said = json.dumps({"revision": "9999", "oldest_program": oldest_program})
    with database.connect() as connection:
        connection.execute(f"comment on table bloom.alembic_version is '{said}'".encode())


def test_this_release_runs_on_a_newer_schema_that_has_only_added(database: FreshDatabase) -> None:
    of_a_newer_release(database, oldest_program=HEAD)
    assert upgrade(database.url) == [] and upgrade_plan(database.url) == []
    check_schema(database.url)
    assert bloom(database, "db", "check").exit_code == 0
    assert current_revision(database.url) == "9999"


COMMANDS = [
    ("db", "upgrade"),
    ("db", "upgrade", "--plan"),
    ("db", "downgrade", "--yes"),
    ("db", "check"),
    ("db", "prune"),
    ("db", "import-predecessor"),
    ("db", "forget-secret", "--yes"),
    ("backup", "create"),
]


@pytest.mark.parametrize("oldest_program", ["9998", None])
def test_every_command_refuses_a_newer_schema_that_says_otherwise(
    database: FreshDatabase, oldest_program: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if oldest_program is None:
        database.edit("update bloom.alembic_version set version_num = '9999'")
    else:
        of_a_newer_release(database, oldest_program=oldest_program)
    before = database.dump()
    with pytest.raises(UnknownSchema):
        check_schema(database.url)
    for command in COMMANDS:
        refused = bloom(database, *command)
        assert refused.exit_code not in (0, 2) and "9999" in refused.stderr, command
        assert re.search("release", refused.stderr)
    assert database.dump() == before and [each.name for each in tmp_path.iterdir()] in ([], [".bloom"])
