"""GET /metrics: what is told, to whom, and that no label grows without bound."""

import time
from typing import Any

import pytest
from scraping import families, get_metrics, scrape, value
from tests.real_postgres import FreshDatabase
from tests.real_runtime import PATIENCE_SEC, Replica, StartReplica, in_background, refused, told

from bloom.server import metrics as server_metrics
from bloom.telemetry import metrics

KEY = "key-of-the-scrape"


@pytest.fixture(autouse=True)
def _read_at_each_scrape(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    monkeypatch.setattr(server_metrics, "READ_EVERY_SEC", 0.0)


def grown(before: str, after: str, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


def test_the_life_of_a_task_is_counted(runtime: Replica) -> None:
    runtime.register(slots=3)
    before = scrape(runtime)
    for _ in range(3):
        runtime.create()
    held = {item["task"]["id"]: item["lease"]["id"] for item in runtime.claim("worker", "first", slots=3)}
    done, failed, late = held.items()
    assert runtime.claim("worker", "second") == []
    figures: dict[str, Any] = {"duration_ms": 5, "tokens_used": 1200, "cost_usd": 0.25, "model": "sonnet"}
    told(runtime.complete(*done, metrics=figures))
    told(runtime.fail(*failed, code="invalid_json"))
    during = scrape(runtime)
    assert value(during, "bloom_leases_active") == 1
    assert value(during, "bloom_oldest_task_seconds", state="held") > 0
    told(runtime.fail(*late, retryable=True, retry_after_sec=60))
    after = scrape(runtime)

    assert grown(before, after, "bloom_claims_total", outcome="granted") == 1
    assert grown(before, after, "bloom_claims_total", outcome="empty") == 1
    assert grown(before, after, "bloom_leases_granted_total") == 3
    assert grown(before, after, "bloom_queue_wait_seconds_count") == 3
    assert grown(before, after, "bloom_lease_seconds_count", end="reported") == 3
    assert grown(before, after, "bloom_attempts_ended_total", outcome="completed", code="none") == 1
    assert grown(before, after, "bloom_attempts_ended_total", outcome="failed", code="invalid_json") == 1
    assert grown(before, after, "bloom_attempts_ended_total", outcome="retried", code="none") == 1
    assert grown(before, after, "bloom_tokens_total", model="sonnet") == 1200
    assert grown(before, after, "bloom_cost_usd_total", model="sonnet") == 0.25
    assert grown(before, after, "bloom_batch_size_sum", kind="create") == 3
    assert {state: value(after, "bloom_tasks", state=state) for state in ("queued", "completed", "failed")} == {
        "queued": 1,
        "completed": 1,
        "failed": 1,
    }
    assert value(after, "bloom_queue_depth", waits_for="time", labels="") == 1
    assert value(after, "bloom_workers", state="online", draining="false") == 1
    assert value(after, "bloom_worker_slots", state="online", draining="false") == 3
    assert value(after, "bloom_db_pool_connections", use="limit") == 4
    assert value(after, "bloom_database_up") == 1


def test_a_lease_that_nobody_renews_is_counted_as_expired(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    task, _ = runtime.leased(max_attempts=1)
    before = scrape(runtime)
    database.edit("update bloom.leases set expires_at = now() - interval '1 second'")
    assert runtime.reap() == [task["id"]]
    after = scrape(runtime)
    assert grown(before, after, "bloom_leases_expired_total") == 1
    assert grown(before, after, "bloom_attempts_ended_total", outcome="dead", code="lease_expired") == 1
    assert grown(before, after, "bloom_lease_seconds_count", end="expired") == 1


def test_the_wake_up_of_a_waiting_claim_is_measured(runtime: Replica) -> None:
    runtime.register()
    runtime.until_listening()
    watch = runtime.services.granting.watch
    before = scrape(runtime)
    with in_background(lambda: runtime.claim("worker", "waits", wait_sec=30)) as claim:
        deadline = time.monotonic() + PATIENCE_SEC
        while not any(waiting.labels is not None for waiting in tuple(watch.claims)):
            assert time.monotonic() < deadline
        runtime.create()
        assert len(claim.result(PATIENCE_SEC)) == 1
    assert grown(before, scrape(runtime), "bloom_wakeup_seconds_count") == 1


def test_figures_of_a_report_that_are_none_count_nothing(runtime: Replica) -> None:
    runtime.register()
    task, lease = runtime.leased()
    before = scrape(runtime)
    odd: dict[str, Any] = {"duration_ms": 5, "cost_usd": "a lot", "model": {"name": "x"}}
    told(runtime.complete(task["id"], lease["id"], metrics=odd))
    after = scrape(runtime)
    assert grown(before, after, "bloom_attempts_ended_total", outcome="completed", code="none") == 1
    assert "a lot" not in after


def test_requests_are_told_apart_by_the_templates_of_their_routes_and_never_by_their_paths(runtime: Replica) -> None:
    task = runtime.create()
    before = scrape(runtime)
    runtime.get(f"/llm-tasks/{task['id']}")
    runtime.get("/artifacts/one-that-is-not-there")
    runtime.get("/no-such-route/secret-in-a-path")
    runtime.http.request("BREW", "/health")
    after = scrape(runtime)
    api = "/api/runtime"
    for labels in (
        {"method": "GET", "route": f"{api}/llm-tasks/{{task_id}}", "status": "2xx"},
        {"method": "GET", "route": f"{api}/artifacts/{{artifact_id}}", "status": "4xx"},
        {"method": "GET", "route": "other", "status": "4xx"},
    ):
        assert grown(before, after, "bloom_request_seconds_count", **labels) == 1, labels
    for text in (task["id"], "one-that-is-not-there", "secret-in-a-path", "BREW"):
        assert text not in after


def test_the_queue_is_told_by_sets_of_labels_and_those_that_read_alike_are_one_series(runtime: Replica) -> None:
    runtime.create()
    for labels in (["gpu"], ["gpu"], ["a", "b"], ["a,b"], ["other"]):
        runtime.create(labels=labels)
    runtime.create(run_at=253_402_300_799_000)
    for _ in range(2):
        runtime.create(concurrency_key="one")
    text = scrape(runtime)
    depth = {
        (sample.labels["waits_for"], sample.labels["labels"]): sample.value
        for sample in families(text)["bloom_queue_depth"].samples
    }
    assert depth == {
        ("worker", ""): 2,
        ("worker", "gpu"): 2,
        ("worker", "a,b"): 2,
        ("worker", "other"): 1,
        ("time", ""): 1,
        ("turn", ""): 1,
    }
    assert value(text, "bloom_queue_oldest_seconds", labels="gpu") > 0


def test_beyond_fifty_sets_of_labels_the_rest_is_other(runtime: Replica) -> None:
    bodies = [
        {"context_id": "c", "agent_slug": "a", "prompt": "p", "labels": [f"label-{n:03}"]}
        for n in range(60)
        for _ in "ab"
    ]
    told(runtime.post("/llm-tasks/batch", {"tasks": bodies}))
    depth = families(scrape(runtime))["bloom_queue_depth"].samples
    assert sum(sample.value for sample in depth) == 120
    assert [sample.value for sample in depth if sample.labels["labels"] == "other"] == [20]
    assert len(depth) == 50 + 3


def test_names_from_outside_are_few_and_readable() -> None:
    names = metrics.Names()
    assert names.bounded("claude-sonnet-4@2026") == "claude-sonnet-4@2026"
    for odd in ("", "a b", "x" * 65, "line\nbreak", None, 5, ["list"]):
        assert names.bounded(odd) == "other"
    kept = {names.bounded(f"code_{n}") for n in range(200)}
    assert len(kept) == metrics.MOST_LABELS and "other" in kept
    assert names.bounded("claude-sonnet-4@2026") == "claude-sonnet-4@2026"


def test_while_the_database_is_away_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_metrics, "READ_SEC", 0.05)
    with Replica("postgresql://nobody@127.0.0.1:1/nothing") as replica:
        text = scrape(replica)
    assert value(text, "bloom_database_up") == 0
    assert "bloom_tasks{" not in text and "bloom_claims_total" in text


def test_the_database_is_read_once_for_scrapes_that_follow_each_other(
    runtime: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_metrics, "READ_EVERY_SEC", 3600.0)
    first = scrape(runtime)
    runtime.create()
    assert value(first, "bloom_tasks", state="queued") == value(scrape(runtime), "bloom_tasks", state="queued") == 0


# --- who may ask ------------------------------------------------------------------------------------------------------


def test_with_a_key_the_metrics_want_it_as_a_bearer_token(start_replica: StartReplica) -> None:
    replica = start_replica(BLOOM_METRICS_KEY=KEY, RUNTIME_API_KEY="admin")
    assert "bloom_build_info" in scrape(replica, Authorization=f"Bearer {KEY}")
    for wrong in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Basic {KEY}"}, {"Authorization": KEY}):
        answer = get_metrics(replica, **wrong)
        assert refused(answer, 401) == "unauthorized" and answer.headers["WWW-Authenticate"] == "Bearer"
        assert KEY not in answer.text


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"X-Forwarded-For": "203.0.113.7"}, False),
        ({"X-Forwarded-For": "127.0.0.1"}, True),
        ({"X-Forwarded-For": "127.0.0.1, 203.0.113.7"}, False),
        ({"X-Forwarded-For": "unknown"}, False),
        ({"Forwarded": "for=203.0.113.7"}, False),
        ({"X-Real-IP": "203.0.113.7"}, False),
    ],
)
def test_without_a_key_this_machine_alone_may_ask(
    start_replica: StartReplica, headers: dict[str, str], allowed: bool
) -> None:
    answer = get_metrics(start_replica(RUNTIME_API_KEY="admin"), **headers)
    if allowed:
        assert answer.status_code == 200
    else:
        assert refused(answer, 403) == "forbidden"


def test_what_an_untrusted_proxy_says_of_a_client_is_no_proof(start_replica: StartReplica) -> None:
    replica = start_replica(RUNTIME_API_KEY="admin", BLOOM_TRUSTED_PROXIES="none")
    assert refused(get_metrics(replica, **{"X-Forwarded-For": "127.0.0.1"}), 403) == "forbidden"


def test_no_secret_is_told(start_replica: StartReplica) -> None:
    replica = start_replica(
        RUNTIME_API_KEY="canary-of-the-admin", BLOOM_METRICS_KEY=KEY, BLOOM_SECRET_KEY="canary-seal"
    )
    replica.create(prompt="canary-prompt", context_id="canary-context")
    text = scrape(replica, Authorization=f"Bearer {KEY}")
    assert "canary" not in text and KEY not in text
