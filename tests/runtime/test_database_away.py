"""PostgreSQL goes away and comes back: callers are told so, nothing is lost, and nothing has to be restarted."""

from collections.abc import Callable
from pathlib import Path

import httpx
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, at_once, in_background, refused, told
from tests.runtime.invariants import check_invariants

from bloom.db.embedded import EmbeddedPostgres
from bloom.db.migrate import upgrade

BACK_WITHIN_SEC = 20


def test_while_postgresql_is_away_callers_are_told_and_it_goes_on_when_it_is_back(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    url = postgres.start()
    try:
        upgrade(url)
        with Replica(url, maintenance=True) as runtime:
            runtime.register()
            task, lease = runtime.leased()
            assert told(runtime.get("/health"))["status"] == "ok"
            with in_background(
                lambda: runtime.post("/workers/worker/claim", {"request_id": "r", "wait_sec": 30})
            ) as claim:
                eventually(lambda: told(runtime.get("/workers/worker"))["active_leases"] == 1)
                postgres.stop()

                health = runtime.get("/health")
                assert (health.status_code, health.json()["status"]) == (503, "degraded")
                assert health.json()["service"] == "bloom-runtime" and health.json()["storage"] == "postgresql"
                calls: list[Callable[[], httpx.Response]] = [
                    lambda: runtime.get(f"/llm-tasks/{task['id']}"),
                    lambda: runtime.get("/llm-tasks"),
                    lambda: runtime.get("/stats"),
                    lambda: runtime.post("/llm-tasks", {"context_id": "c", "agent_slug": "a", "prompt": "p"}),
                    lambda: runtime.heartbeat(task["id"]),
                    lambda: runtime.complete(task["id"], lease["id"]),
                ]
                for answer in at_once(len(calls), lambda n: calls[n]()):
                    assert refused(answer, 503) == "database_unavailable"
                    assert int(answer.headers["Retry-After"]) > 0
                    told_of = answer.text.lower()
                    assert not any(
                        word in told_of for word in ("psycopg", "socket", "password", "select", str(tmp_path))
                    )

                postgres.start()
                eventually(lambda: runtime.get("/health").status_code == 200, within_sec=BACK_WITHIN_SEC)
                told(runtime.complete(task["id"], lease["id"]))
                runtime.until_listening()
                runtime.create()
                # The claim that waited either was refused or hears the news again.
                assert claim.result(BACK_WITHIN_SEC).status_code in (200, 503)
            database = FreshDatabase(url)
            check_invariants(database)
            database.close()
    finally:
        postgres.stop()


def test_a_runtime_that_starts_before_its_database_serves_once_it_is_there(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "data")
    url = postgres.start()
    upgrade(url)
    postgres.stop()
    try:
        with Replica(url, maintenance=True) as runtime:
            assert runtime.get("/health").status_code == 503
            postgres.start()
            eventually(lambda: runtime.get("/health").status_code == 200, within_sec=BACK_WITHIN_SEC)
            runtime.create()
    finally:
        postgres.stop()


def test_connections_that_are_cut_under_load_lose_nothing(start_replica: StartReplica, database: FreshDatabase) -> None:
    runtime = start_replica(maintenance=True)
    runtime.register(slots=32)
    created: list[str] = []
    unanswered = 0
    for turn in range(60):
        if turn % 6 == 0:
            database.rows("""select pg_terminate_backend(pid) from pg_stat_activity
                             where application_name like 'bloom%%' and datname = current_database()""")  # fmt: skip
        body = {"context_id": "c", "agent_slug": "a", "prompt": "p", "idempotency_key": str(turn)}
        answer = runtime.post("/llm-tasks", body)
        while answer.status_code == 503:
            unanswered += 1
            assert refused(answer, 503) == "database_unavailable"
            answer = runtime.post("/llm-tasks", body)
        created.append(told(answer, 200, 201)["id"])
    assert len(set(created)) == 60 == database.value("select count(*) from bloom.tasks")
    assert unanswered < 60
    check_invariants(database)
