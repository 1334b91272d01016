"""Bringing a database to this release."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from tests.real_postgres import FreshDatabase, eventually

import bloom.db.migrations.versions as versions
from bloom.base.errors import Unavailable
from bloom.db.migrate import ADVISORY_LOCK, HEAD, UnknownSchema, current_revision, upgrade

START_SEC = 30


def revisions() -> list[str]:
    """The revisions that have a file, oldest first."""
    (directory,) = versions.__path__
    return sorted(file.name.partition("_")[0] for file in Path(directory).glob("[0-9]*.py"))


def upgrading(database: FreshDatabase) -> subprocess.Popen[str]:
    """A process that upgrades the database."""
    return subprocess.Popen(
        [sys.executable, "-m", "bloom", "db", "upgrade"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DATABASE_URL": database.url},
    )


def test_the_newest_revision_is_the_one_this_release_says_it_knows() -> None:
    assert revisions()[-1] == HEAD


def test_an_empty_database_is_brought_to_the_newest_revision_once(empty_database: FreshDatabase) -> None:
    assert current_revision(empty_database.url) is None
    assert upgrade(empty_database.url) == revisions()
    assert current_revision(empty_database.url) == HEAD
    assert upgrade(empty_database.url) == []


def test_two_processes_that_upgrade_at_once_do_it_once(empty_database: FreshDatabase) -> None:
    with empty_database.connect() as holder:
        # Both are past the look without a lock when they go on.
        holder.execute("select pg_advisory_lock(%s)", [ADVISORY_LOCK])
        with upgrading(empty_database) as one, upgrading(empty_database) as other:
            eventually(lambda: empty_database.blocked() == 2, what="both processes", within_sec=START_SEC)
            holder.execute("select pg_advisory_unlock(%s)", [ADVISORY_LOCK])
            said = [process.communicate(timeout=START_SEC)[0] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), said
    assert sorted(text.strip() for text in said) == [f"applied {', '.join(revisions())}", "the schema is up to date"]
    assert current_revision(empty_database.url) == HEAD


def test_many_threads_that_upgrade_at_once_do_it_once(empty_database: FreshDatabase) -> None:
    with ThreadPoolExecutor(2) as pool:
        applied = list(pool.map(upgrade, [empty_database.url] * 4))
    assert sorted(applied) == [[], [], [], revisions()]


def test_a_database_of_a_newer_release_is_left_alone(database: FreshDatabase) -> None:
    database.edit("update bloom.alembic_version set version_num = '9999'")
    before = database.dump()
    with pytest.raises(UnknownSchema) as refused:
        upgrade(database.url)
    assert refused.value.code == "unknown_schema" and "9999" in refused.value.message and HEAD in refused.value.message
    assert database.dump() == before and current_revision(database.url) == "9999"


def test_a_runtime_refuses_to_serve_a_database_of_a_newer_release(database: FreshDatabase) -> None:
    database.edit("update bloom.alembic_version set version_num = '9999'")
    ended = subprocess.run(
        [sys.executable, "-m", "bloom", "serve", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=START_SEC,
        check=False,
        env={**os.environ, "DATABASE_URL": database.url},
    )
    assert ended.returncode != 0
    assert "9999" in ended.stderr and "Traceback" not in ended.stderr


def test_what_others_keep_in_the_same_database_is_not_touched(empty_database: FreshDatabase) -> None:
    empty_database.edit("create table public.tasks as select 'theirs' as owner")
    empty_database.edit("create table public.alembic_version as select 'theirs' as version_num")
    upgrade(empty_database.url)
    assert empty_database.value("select owner from public.tasks") == "theirs"
    assert empty_database.value("select version_num from public.alembic_version") == "theirs"
    schemas = empty_database.rows("""
        select distinct n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname not like 'pg!_%%' escape '!' and n.nspname <> 'information_schema'
          and c.relname not in ('tasks', 'alembic_version')
        order by n.nspname""")  # fmt: skip
    assert [row["nspname"] for row in schemas] == ["bloom", "membridge"]


def test_a_database_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    nowhere = f"postgresql:///nothing?host={tmp_path}"
    for call in (upgrade, current_revision):
        with pytest.raises(Unavailable) as refused:
            call(nowhere)
        assert refused.value.code == "database_unavailable" and str(tmp_path) not in refused.value.message


def test_what_the_first_release_has_stored_is_counted_and_kept(database: FreshDatabase) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(versions.__path__[0]).parent))
    config.attributes["database_url"] = database.url
    command.downgrade(config, "0001")
    database.edit("""
        insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status,
                                 concurrency_key)
        select 't' || n, 'c', 'a', 'p', 1, 0, 'text', case when n <= 3 then 'queued' else 'dead' end, 'k'
        from generate_series(1, 5) n""")
    before = database.rows("select id, status, concurrency_key from bloom.tasks order by id")
    assert upgrade(database.url) == revisions()[1:]
    assert database.rows("select id, status, concurrency_key from bloom.tasks order by id") == before
    assert database.rows("select queued, dead, completed, leases from bloom.counts") == [
        {"queued": 3, "dead": 2, "completed": 0, "leases": 0}
    ]
    assert database.value("select bool_and(turn) from bloom.tasks")
