"""The pages of workers and leases, without a script."""

import re
from collections.abc import Generator

import pytest
from tests.real_postgres import PostgresServer
from tests.real_runtime import Replica, StartReplica, told
from visitor import ADMIN_KEY, Visitor, signed_in, words_of

from bloom.base.roles import Role


@pytest.fixture(scope="module")
def keyed(postgres_server: PostgresServer) -> Generator[Replica]:
    """A runtime that asks for keys, for tests that know their own workers by name."""
    with postgres_server.database() as database, Replica(database.url, RUNTIME_API_KEY=ADMIN_KEY) as replica:
        replica.until_listening()
        yield replica


@pytest.fixture
def admin(keyed: Replica) -> Generator[Visitor]:
    with signed_in(keyed) as visitor:
        yield visitor


def test_a_worker_is_shown_with_what_runs_there(keyed: Replica, admin: Visitor) -> None:
    board = {"free_memory_bytes": 512 << 20, "total_memory_bytes": 4 << 30, "load_1m": 0.5, "cores": 4}
    keyed.register("pi one", slots=2, capabilities={"labels": ["arm"]}, agent_version="9.9")
    task, lease = keyed.leased("pi one", prompt="Water <b>the</b> garden")
    told(keyed.post("/workers/pi one/extend", {"leases": [{"lease_id": lease["id"]}], "board": board}))
    listed, shown = admin.page("/workers"), admin.page("/workers/pi%20one")
    for page in (listed, shown):
        words = words_of(page)
        assert "1 of 2" in words and "arm" in words and "9.9" in words and "512 MiB free of 4 GiB" in words
        assert task["id"] in page
    assert "Water &lt;b&gt;the&lt;/b&gt; garden" in shown and "<b>the" not in shown


def test_a_worker_is_drained_resumed_and_removed(keyed: Replica, admin: Visitor) -> None:
    keyed.register("drained")
    task, _ = keyed.leased("drained")
    assert admin.post("/workers/drained/drain").headers["location"] == "/workers/drained?notice=worker_drained"
    assert "One task still runs there" in words_of(admin.page("/workers/drained"))
    admin.post("/workers/drained/resume")
    assert told(keyed.get("/workers/drained"))["draining"] is False
    asked = words_of(admin.page("/workers/drained/remove"))
    assert "One task runs there. Its lease ends at once and it goes back to the queue" in asked
    assert told(keyed.get("/workers/drained"))["active_leases"] == 1
    assert admin.post("/workers/drained/remove").headers["location"].startswith("/workers?")
    assert keyed.get("/workers/drained").status_code == 404
    assert keyed.task(task["id"])["status"] == "queued"
    assert admin.get("/workers/drained").status_code == 404


def test_removing_tells_of_tasks_that_are_being_cancelled(keyed: Replica, admin: Visitor) -> None:
    keyed.register("leaving", slots=2)
    keyed.leased("leaving")
    task, _ = keyed.leased("leaving")
    told(keyed.post(f"/llm-tasks/{task['id']}/cancel"))
    asked = words_of(admin.page("/workers/leaving/remove"))
    assert "2 tasks run there" in asked and "One of them was to be cancelled, and will be" in asked


@pytest.mark.parametrize("role", [Role.READER, Role.SUBMITTER])
def test_who_is_no_admin_sees_workers_and_no_buttons(keyed: Replica, role: Role) -> None:
    keyed.register("looked-at")
    with signed_in(keyed, role) as visitor:
        for path in ("/workers", "/workers/looked-at"):
            page = visitor.page(path)
            assert "looked-at" in page and "drain" not in page and "remove" not in page and "add-worker" not in page
        assert "/settings" not in visitor.page("/workers")
        refused = visitor.post("/workers/looked-at/drain")
        assert refused.status_code == 403 and "Your key does not allow this" in words_of(refused.text)
        assert visitor.get("/add-worker").status_code == 403
    assert told(keyed.get("/workers/looked-at"))["draining"] is False


def test_the_command_that_adds_a_worker_holds_a_token_that_joins_once(keyed: Replica, admin: Visitor) -> None:
    page = admin.post("/add-worker", name="pi-new")
    assert page.status_code == 200 and page.headers["cache-control"] == "no-store"
    found = re.search(r"bloom worker join (\S+) (bloom_join_\S{43})", words_of(page.text))
    assert found and found[1] == keyed.url
    joined = keyed.http.post("/keys/join", json={}, headers={"X-Runtime-API-Key": found[2]})
    assert told(joined, 201)["worker_name"] == "pi-new"
    assert keyed.http.post("/keys/join", json={}, headers={"X-Runtime-API-Key": found[2]}).status_code == 401
    assert "bloom_join_" not in admin.page("/add-worker")
    assert "this machine only" in words_of(admin.page("/add-worker"))


@pytest.mark.parametrize("name", ["a/b", "x" * 129, "line\nend"])
def test_a_bad_name_for_a_new_worker_is_told_at_its_field(admin: Visitor, name: str) -> None:
    page = admin.post("/add-worker", name=name)
    assert page.status_code == 400 and 'id="name-problem"' in page.text and "bloom_join_" not in page.text


def test_in_development_the_command_needs_no_token(runtime: Replica) -> None:
    with Visitor(runtime.url) as visitor:
        words = words_of(visitor.page("/add-worker"))
    assert f"bloom worker --runtime {runtime.url}" in words and "development mode" in words


def test_the_command_names_the_address_that_the_browser_uses(start_replica: StartReplica) -> None:
    replica = start_replica(RUNTIME_API_KEY=ADMIN_KEY, BLOOM_BASE_PATH="/bloom")
    headers = {"Host": "bloom.example.org", "X-Forwarded-Proto": "https"}
    with Visitor(replica.url, base="/bloom", **headers) as visitor:
        answer = visitor.sign_in(ADMIN_KEY)
        # The cookie is for TLS alone, which this client does not speak.
        visitor.http.headers["Cookie"] = answer.headers["set-cookie"].split(";")[0]
        words = words_of(visitor.post("/add-worker", name="").text)
    assert re.search(r"bloom worker join https://bloom\.example\.org/bloom bloom_join_", words)
    assert "this machine only" not in words


def test_leases_are_filtered_and_paged(runtime: Replica) -> None:
    runtime.register("busy", slots=32)
    ended, _ = runtime.leased("busy")
    told(runtime.complete(ended["id"]))
    tasks = [runtime.leased("busy")[0]["id"] for _ in range(2)]
    with Visitor(runtime.url) as visitor:
        active, released, every = (visitor.page("/leases", status=s) for s in ("active", "released", "all"))
        assert all(task in active and task in every and task not in released for task in tasks)
        assert ended["id"] in released and ended["id"] not in active
        assert visitor.page("/leases").count("<tr id=") == 2
        assert "No leases" in words_of(visitor.page("/leases", status="expired"))
        assert visitor.get("/leases", cursor="nonsense").status_code == 400
