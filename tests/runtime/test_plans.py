"""What is asked all the time reads no large table whole, with the plan for these values as with the one for any."""

import json
import re
from typing import Any

import pytest
from psycopg.sql import SQL, Composable, Literal
from tests.real_postgres import FreshDatabase, PostgresServer

from bloom.db.pool import SESSION_SETTINGS
from bloom.db.queries import load_queries

SMALL = {"workers", "counts", "keys", "activity_position"}
"""Tables that have a few rows, however long the runtime has served."""

BY_STATE = {
    "tasks_by_status", "tasks_claimable", "tasks_fresh", "tasks_not_due", "leases_by_status", "leases_one_active_per_task",
    "leases_active_by_worker",
}  # fmt: skip
"""Indexes by which rows are found that are in some state, not those that are named."""

NAMED = {
    "grant_many", "extend_many", "expire_many", "complete_many", "cancel", "requeue", "append_events", "open", "leasable",
    "lock_tasks", "lock_tasks_of_leases", "lock_states", "task_states", "results_by_leases", "keep_many",
}  # fmt: skip
"""Statements to which rows are named by id."""

IDS = [f"t{n}" for n in range(100, 110)]
LEASES = [f"l{n}" for n in range(100, 110)]
NOW: dict[str, Any] = {"now": None}
PAGE: dict[str, Any] = {"before": None, "limit": 10, "cut": 10}
ANY_ENTRY = dict.fromkeys(("action", "actor", "entity_type", "entity_id", "since", "until"))
SEARCH: dict[str, Any] = {
    **PAGE, "reach": 1000, "agent": None, "context": None, "worker": None, "label": "gpu", "text": "p",
}  # fmt: skip
HOLDER = {"task_id": "t100", "lease_id": "l100", "worker_id": "w1"}
CREATED: dict[str, Any] = {
    "id": "new", "context_id": "c", "agent_slug": "a", "prompt": "p", "context_hints": [], "timeout_sec": 1, "budget": 0,
    "desired_format": "text", "priority": 0, "labels": [], "concurrency_key": "k1", "retry_base_sec": 1, "retry_max_sec": 1,
    "max_attempts": 1, "scope": "s", "idempotency_key": "new", "digest": "00", "actor": "a",
}  # fmt: skip
REPORT: dict[str, Any] = {
    "n": 0, "task_id": "t100", "lease_id": "l100", "success": True, "metrics": {}, "digest": "00", "result_id": "new",
    "artifact_id": "new", "artifact_type": "t", "artifact_tags": [], "size_bytes": 1, "sha256": "0" * 64, "place": "inline",
    "content": "x",
}  # fmt: skip

STATEMENTS: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("bloom.tasks.store", "tasks.sql"): {
        "purge_expired_keys": {"scopes": ["s"], "keys": ["key1", "key2"], **NOW},
        "insert_many": {"items": json.dumps([CREATED]), **NOW},
        "by_idempotency_keys": {"scopes": ["s"], "keys": ["key1", "key2"]},
        "by_ids": {"ids": IDS},
        "page": PAGE,
        "page_by_status": {**PAGE, "status": "dead", "before": 15_000},
        "search": SEARCH,
        "search_by_status": {**SEARCH, "status": "dead", "before": 15_000},
        "reached": SEARCH,
        "reached_by_status": {**SEARCH, "status": "dead", "before": 15_000},
        "exists": {"id": "t1"},
    },
    ("bloom.tasks.store", "activity.sql"): {
        "fold": {"limit": 100},
        "since": {"since": "2100-01-01"},
        "spent_since": {"since": "2100-01-01"},
    },
    ("bloom.tasks.store", "leases.sql"): {
        "promote_due": NOW,
        "next_due": NOW,
        "lock_candidates": {
            "groups": json.dumps([{"n": 0, "labels": ["gpu"], "slots": 4}]), "workers": ["w1"], "seen": ["t1"], **NOW,
        },
        "wanted": {},
        "any_fresh_claimable": NOW,
        "lock_tasks": {"ids": IDS},
        "lock_tasks_of_leases": {"lease_ids": LEASES},
        "leasable": {"ids": IDS},
        "grant_many": {"items": json.dumps([{**HOLDER, "ttl_seconds": 1, "actor": "a"}]), **NOW},
        "task_states": {"ids": IDS},
        "lock_states": {"ids": IDS},
        "extend_many": {"items": json.dumps([HOLDER]), **NOW},
        "lock_expired": {"limit": 10, **NOW},
        "expire_many": {"ids": IDS, "actor": "a", **NOW},
        "lock_tasks_of_worker": {"worker_id": "w1"},
        "remove_worker": {"worker_id": "w1", "actor": "a", **NOW},
        "pass_turns": {"ids": IDS},
        "pass_lost_turns": {},
        "leases_page": {"before": None, "limit": 10},
        "leases_page_by_status": {"before": 15_000, "limit": 10, "status": "failed"},
        "leases_of_worker": {"worker_id": "w1"},
        "held_by_worker": {"worker_id": "w1", "cut": 10},
        "attempts": {"task_id": "t1"},
        "has_held": {"task_id": "t1", "worker_id": "w1"},
        "leases_of_request": {"worker_ids": ["w1"], "request_ids": ["r1"]},
    },
    ("bloom.tasks.store", "completions.sql"): {
        "complete_many": {"items": json.dumps([REPORT]), "free_deaths": 2, **NOW},
        "results_by_leases": {"lease_ids": LEASES},
        "results_by_task": {"task_id": "t1", "cut": 10},
        "result_by_id": {"task_id": "t1", "id": "r1"},
        "cancel": {"id": "t100", "actor": "a", **NOW},
        "requeue": {"id": "t100", "actor": "a", **NOW},
    },
    ("bloom.tasks.store", "events.sql"): {
        "append_events": {**HOLDER, "items": json.dumps([{"seq": 2, "type": "t", "data": {}}]), **NOW},
        "last_event_seq": {"lease_id": "l1"},
        "events_after": {"task_id": "t1", "after": 0, "limit": 10},
        "newest_events": {"task_id": "t1", "chars": 1000, "limit": 10},
    },
    ("bloom.tasks.store", "rejected.sql"): {
        "keep_many": {
            "items": json.dumps([{**HOLDER, "status": "success", "metrics": {}, "result_id": "new"}]), "most": 20, **NOW,
        },
        "by_id": {"id": "j1", "task_id": "t1"},
        "by_task": {"task_id": "t1", "cut": 10},
    },
    ("bloom.tasks.store", "uploads.sql"): {
        "by_lease": {"lease_id": "l1", "task_id": "t1"},
        "remove": {"lease_id": "l1", "task_id": "t1"},
        "open": {"id": "new", "task_id": "t100", "lease_id": "l100"},
        "sweep": {"limit": 10, **NOW},
    },
    ("bloom.tasks.store", "counts.sql"): {"total": {}},
    ("bloom.tasks.store", "gauges.sql"): {"waiting": {"sets": 50, "most": 100, **NOW}, "ages": {"most": 100, **NOW}},
    ("bloom.tasks.store", "retention.sql"): {
        "lock_old": {"days": 90, "after_at": "2000-01-01", "after_id": "", "limit": 10, **NOW},
        "prune": {"ids": IDS, "days": 90, "actor": "a", **NOW},
    },
    ("bloom.workers", "queries.sql"): {"all": {}, "by_ids": {"ids": ["w1"]}, "routable": {}, "lock": {"ids": ["w1"]}},
    ("bloom.artifacts", "queries.sql"): {
        "by_ids": {"ids": ["a1"]},
        "page": PAGE,
        "page_of_task": {**PAGE, "task_id": "t1"},
        "chunk": {"id": "u1", "n": 0},
        "upload": {"id": "u1"},
        "to_move": {"limit": 10},
        "moved": {"id": "a1", "object_key": "k", "url": "u", "cut": 10},
        "orphans": {"keys": ["k"], "task_ids": ["t1"], "artifact_ids": ["a1"]},
    },
    ("bloom.audit", "queries.sql"): {
        "page": {**ANY_ENTRY, "before": None, "limit": 10},
        "in_commit_order": {"tx": "1", "id": 0, "limit": 10},
    },
    ("bloom.audit", "seals.sql"): {
        "digests": {"tx": "1", "id": 0, "to_tx": None, "to_id": 0, "limit": 1000},
        "entries": {"ids": [1, 2, 3]},
        "last_seal": {},
        "seals": {"n": 5000, "limit": 2},
        "unfinished_export": {},
        "plan_export": {"most": 50, "every_sec": 0},
        "exported": {"first_n": 5000},
    },
}  # fmt: skip

FILLING = """
    insert into bloom.workers (id, status) select 'w' || n, 'online' from generate_series(0, 49) n;
    insert into bloom.tasks (id, context_id, agent_slug, prompt, timeout_sec, budget, desired_format, status, turn, labels,
                             concurrency_key, updated_at)
    select 't' || n, 'c' || n % 1000, 'a', 'p', 1, 0, 'text', case when n > 18000 then 'queued' else 'completed' end,
           n % 40 < 38, case when n % 10 = 0 then '{gpu}'::text[] else '{}' end, case when n % 20 = 0 then 'k' || n % 500 end,
           now() - n * interval '1 minute'
    from generate_series(1, 20000) n;
    insert into bloom.leases (id, task_id, worker_id, context_id, status, expires_at, ttl_seconds, ended_at, request_id)
    select 'l' || n, 't' || n, 'w' || n % 50, 'c' || n % 1000, 'released', now(), 1, now(), 'r' || n
    from generate_series(1, 20000) n;
    insert into bloom.artifacts (id, task_id, job_id, type, content_type, size_bytes, sha256, place, content)
    select 'a' || n, 't' || n, 't' || n, 'r', 'text/plain', 1, repeat('0', 64), 'inline', 'x' from generate_series(1, 18000) n;
    insert into bloom.results (id, task_id, lease_id, worker_id, artifact_id, status, metrics, digest)
    select 'r' || n, 't' || n, 'l' || n, 'w', 'a' || n, 'success', '{}', '' from generate_series(1, 18000) n;
    insert into bloom.rejected_results (id, task_id, lease_id, worker_id, status, metrics, reason)
    select 'j' || n, 't' || n, 'l' || n, 'w', 'error', '{}', 'lease_expired' from generate_series(1, 5000) n;
    insert into bloom.uploads (id, task_id, kept) select 'u' || n, 't' || n, true from generate_series(1, 20000) n;
    insert into bloom.upload_chunks (upload_id, n, data) select 'u' || n, 0, 'x' from generate_series(1, 20000) n;
    insert into bloom.idempotency_keys (scope, key, task_id, digest) select 's', 'key' || n, 't' || n, ''
    from generate_series(1, 20000) n;
    insert into bloom.task_events (task_id, id, lease_id, seq, type, data)
    select 't' || n % 1000 + 1, n, 'l' || n, 1, 't', '{}' from generate_series(1, 20000) n;
    insert into bloom.audit_log (action, entity_type, entity_id, actor)
    select 'task_created', 'task', 't' || n, 'a' from generate_series(1, 20000) n;
    insert into bloom.audit_seals (first_n, ids, marks, hash, last_tx, last_id)
    select n, array[n], 'xxxxxxxx', sha256('x'), '1', n from generate_series(1, 20000) n;
    insert into bloom.audit_exports (first_n, last_n, hash, object_key, exported_at)
    select n, n, '', n::text, now() from generate_series(1, 10000) n;
    insert into bloom.activity (minute) select now() - n * interval '1 minute' from generate_series(1, 20000) n;
    update bloom.activity_position set tx = '3', entry = 0;
    analyze
"""


def prepared(query: str) -> tuple[str, list[str]]:
    """`query` with numbered parameters, and their names."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)", query)))
    numbered = re.sub(r"%\((\w+)\)[sbt]", lambda match: f"${names.index(match[1]) + 1}", query)
    return numbered.replace("%%", "%").strip().rstrip(";"), names


@pytest.fixture(scope="module")
def filled(postgres_server: PostgresServer) -> Any:
    """A database with more in it than is worth being read whole."""
    with postgres_server.database() as database:
        with database.connect() as connection:
            connection.execute(SQL("set session_replication_role = replica"))  # no foreign keys: it is only filled
            for statement in FILLING.split(";\n"):
                connection.execute(statement.encode())
        yield database


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_what_is_asked_all_the_time_reads_no_large_table_whole(filled: FreshDatabase, mode: str) -> None:
    slow: dict[str, str] = {}
    with filled.connect(autocommit=False) as connection:
        connection.execute(SESSION_SETTINGS.encode())
        connection.execute(SQL("set plan_cache_mode = {}").format(Literal(mode)))
        for (package, file), statements in STATEMENTS.items():
            queries = load_queries(package, file)
            for name, params in statements.items():
                query, names = prepared(queries[name].decode())
                connection.execute(f"prepare asked as {query}".encode())
                values: list[Composable] = [Literal(params[name]) for name in names]
                call = SQL("({})").format(SQL(", ").join(values)) if values else SQL("")
                rows = connection.execute(SQL("explain execute asked") + call).fetchall()
                connection.execute("deallocate asked")
                plan = "\n".join(str(row["QUERY PLAN"]) for row in rows)
                read_whole = set(re.findall(r"Seq Scan on (\w+)", plan)) - SMALL
                # The statistics of this database know of no held task and no active lease, so that these seem free to walk.
                walked = set(re.findall(r"(?:using|on) (\w+)", plan)) & BY_STATE
                if read_whole or (walked and name in NAMED):
                    slow[f"{file} {name}"] = plan
    assert not slow, "\n\n".join(f"{name}\n{plan}" for name, plan in slow.items())


RARE: dict[str, dict[str, Any]] = {
    "action": {"action": "key_created"},
    "actor": {"actor": "key:rare"},
    "entity type": {"entity_type": "key"},
    "entity": {"entity_id": "t77"},
    "entity of a type": {"entity_type": "task", "entity_id": "t77"},
    "old": {"until": "2001-01-01"},
    "new": {"since": "2100-01-01"},
    "a span": {"since": "2000-01-01", "until": "2000-01-02", "action": "task_created"},
}


@pytest.mark.parametrize("wanted", RARE)
def test_rare_entries_of_the_audit_log_are_found_by_an_index(filled: FreshDatabase, wanted: str) -> None:
    query, names = prepared(load_queries("bloom.audit")["page"].decode())
    params = {**ANY_ENTRY, "before": None, "limit": 101, **RARE[wanted]}
    with filled.connect() as connection:
        connection.execute("set plan_cache_mode = force_custom_plan")  # as a statement that is not prepared
        connection.execute(f"prepare asked as {query}".encode())
        call = SQL(", ").join(Literal(params[name]) for name in names)
        rows = connection.execute(SQL("explain execute asked({})").format(call)).fetchall()
    plan = "\n".join(str(row["QUERY PLAN"]) for row in rows)
    assert "Bitmap Index Scan on audit_log_" in plan or "Index Scan using audit_log_by_entity" in plan, plan


def test_every_statement_of_the_queue_is_looked_at() -> None:
    """A new one has to be added above, or here with its reason."""
    left_out = {
        "append",  # fenced by the primary keys of an upload and its task; takes binary data
        "lock", "counted_recently", "fold",  # of the few rows of `counts`
        "count_anew",  # once a day
        "forget",  # of `activity`, now and then
        "would_prune",  # by hand
    }  # fmt: skip
    for (package, file), statements in STATEMENTS.items():
        if package == "bloom.tasks.store":
            assert set(load_queries(package, file)) - set(statements) <= left_out, file
