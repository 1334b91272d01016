"""Bringing a database to this release."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.real_postgres import FreshDatabase, eventually

import bloom.db.migrations.versions as versions
from bloom.base.errors import Unavailable
from bloom.db.migrate import ADVISORY_LOCK, HEAD, UnknownSchema, current_revision, upgrade
from bloom.db.queries import load_queries

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


HOT = {
    ("bloom.tasks.store", "leases.sql", "lock_candidates"): {
        "groups": '[{"n": 0, "labels": [], "slots": 4}]', "workers": ["w"], "seen": [], "now": None,
    },
    ("bloom.tasks.store", "leases.sql", "promote_due"): {"now": None},
    ("bloom.tasks.store", "leases.sql", "any_fresh_claimable"): {"now": None},
    ("bloom.tasks.store", "leases.sql", "lock_tasks"): {"ids": ["t1", "t2"]},
    ("bloom.tasks.store", "leases.sql", "leasable"): {"ids": ["t1"]},
    ("bloom.tasks.store", "leases.sql", "task_states"): {"ids": ["t1"]},
    ("bloom.tasks.store", "leases.sql", "extend_many"): {"items": '[{"lease_id": "l1"}]', "now": None},
    ("bloom.tasks.store", "leases.sql", "grant_many"): {"items": '[{"task_id": "t1", "lease_id": "x"}]', "now": None},
    ("bloom.tasks.store", "leases.sql", "expire_many"): {"ids": ["t1"], "actor": "a", "now": None},
    ("bloom.tasks.store", "leases.sql", "remove_worker"): {"worker_id": "w1", "actor": "a", "now": None},
    ("bloom.tasks.store", "completions.sql", "complete_many"): {"items": '[{"task_id": "t1"}]', "now": None, "free_deaths": 3},
    ("bloom.tasks.store", "leases.sql", "lock_expired"): {"limit": 10, "now": None},
    ("bloom.tasks.store", "leases.sql", "leases_of_worker"): {"worker_id": "w"},
    ("bloom.tasks.store", "leases.sql", "leases_of_request"): {"worker_ids": ["w1"], "request_ids": ["r1"]},
    ("bloom.tasks.store", "leases.sql", "leases_page"): {"status": None, "before": None, "limit": 10},
    ("bloom.tasks.store", "tasks.sql", "page"): {"cut": 10, "before": None, "limit": 10},
    ("bloom.tasks.store", "tasks.sql", "page_by_status"): {
        "cut": 10, "before": None, "limit": 10, "status": "completed"
    },
    ("bloom.tasks.store", "completions.sql", "results_by_leases"): {"lease_ids": ["l1"]},
    ("bloom.tasks.store", "completions.sql", "results_by_task"): {"task_id": "t1", "cut": 10},
    ("bloom.tasks.store", "events.sql", "events_after"): {"task_id": "t1", "after": 0, "limit": 10},
    ("bloom.workers", "queries.sql", "by_ids"): {"ids": ["w"]},
    ("bloom.audit", "queries.sql", "page"): {"before": None, "limit": 10},
    ("bloom.artifacts", "queries.sql", "page"): {"before": None, "limit": 10, "cut": 10},
    ("bloom.artifacts", "queries.sql", "page_of_task"): {"before": None, "limit": 10, "cut": 10, "task_id": "t1"},
    ("bloom.artifacts", "queries.sql", "to_move"): {"limit": 10},
}  # fmt: skip


def test_what_is_asked_all_the_time_reads_no_large_table_whole(database: FreshDatabase) -> None:
    for statement in (
        """insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status)
           select 't' || n, 'c' || n, 'a', 'p', 1, 0, 'text', case when n %% 100 = 0 then 'queued' else 'completed' end
           from generate_series(1, 20000) n""",
        """insert into bloom.leases (id, task_id, worker_id, context_id, status, expires_at, ttl_seconds, ended_at, request_id)
           select 'l' || n, 't' || n, 'w' || n %% 50, 'c' || n, 'released', now(), 1, now(), 'r' || n
           from generate_series(1, 20000) n""",
        """insert into bloom.results (id, task_id, lease_id, worker_id, status, metrics, digest)
           select 'r' || n, 't' || n, 'l' || n, 'w', 'error', '{}', '' from generate_series(1, 20000) n""",
        """insert into bloom.artifacts (id, task_id, job_id, type, content_type, size_bytes, sha256, place, content)
           select 'a' || n, 't' || n, 't' || n, 'r', 'text/plain', 1, repeat('0', 64), 'inline', 'x'
           from generate_series(1, 20000) n""",
        """insert into bloom.uploads (id, task_id, kept) select 'u' || n, 't' || n, true from generate_series(1, 20000) n""",
        """insert into bloom.task_events (task_id, id, lease_id, seq, type, data)
           select 't' || n %% 1000 + 1, n, 'l' || n, 1, 't', '{}' from generate_series(1, 20000) n""",
        """insert into bloom.audit_log (action, entity_type, entity_id, actor)
           select 'task_created', 'task', 't' || n, 'a' from generate_series(1, 20000) n""",
        "analyze",
    ):
        database.edit(statement)
    slow: dict[str, str] = {}
    with database.connect() as connection:
        for (package, file, name), params in HOT.items():
            query = load_queries(package, file)[name]
            plan = "\n".join(str(row["QUERY PLAN"]) for row in connection.execute(b"explain " + query, params))
            if "Seq Scan on" in plan.replace("Seq Scan on workers", ""):
                slow[name] = plan
    assert not slow, "\n\n".join(f"{name}\n{plan}" for name, plan in slow.items())
