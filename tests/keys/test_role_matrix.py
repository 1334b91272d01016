"""Every route against every role, over real HTTP."""

import re
from typing import Any

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from key_holders import OTHER, OWN, app_of_the_runtime, create_key, routes_of_the_runtime, shown
from starlette.routing import compile_path
from tests.real_runtime import API, Replica, told

from bloom.base.roles import Role
from bloom.server.access import RULES
from bloom.web.roles import Reach

ROUTES = sorted(routes_of_the_runtime())
SAFE = {"GET", "HEAD"}


def test_every_route_has_a_rule_and_every_rule_its_route() -> None:
    assert set(RULES) == set(ROUTES)


def test_the_rule_of_a_request_is_that_of_the_route_that_answers_it() -> None:
    for method, path in ROUTES:
        first = next(
            found.path
            for found in iter_route_contexts(app_of_the_runtime().routes)
            if method in (found.methods or ()) and compile_path(found.path or "")[0].match(filled(path))
        )
        assert first == path, f"{method} {path} is answered by {first}"


def test_an_admin_may_use_every_route() -> None:
    assert [route for route in ROUTES if Role.ADMIN not in RULES[route].roles] == []


def test_readers_only_read() -> None:
    for_readers = [r for r in ROUTES if Role.READER in RULES[r].roles and not RULES[r].strangers]
    assert {method for method, _ in for_readers} <= SAFE


def test_submitters_may_do_what_readers_may() -> None:
    assert [r for r in ROUTES if Role.READER in RULES[r].roles and Role.SUBMITTER not in RULES[r].roles] == []


def test_workers_are_let_in_only_where_the_request_names_a_worker_or_a_task() -> None:
    for route in ROUTES:
        rule = RULES[route]
        if Role.WORKER not in rule.roles or rule.strangers:
            continue
        if rule.reach is Reach.OWN_NAME:
            assert "{worker_id}" in route[1], route
        elif rule.reach is Reach.TASKS_IT_HELD:
            assert "{task_id}" in route[1] and route[0] in SAFE, route
        else:  # tests/keys/test_worker_keys.py holds each of these against the keys of other workers
            assert "{task_id}" in route[1] or route == ("POST", f"{API}/workers"), route


def test_a_join_token_joins_and_nothing_else() -> None:
    assert [r for r in ROUTES if Role.JOIN in RULES[r].roles and not RULES[r].strangers] == [
        ("POST", f"{API}/keys/join")
    ]


def test_the_open_routes_are_those_of_the_wire_contract_the_pages_and_metrics_which_have_a_key_of_their_own() -> None:
    assert {path for _, path in ROUTES if RULES[_, path].strangers} == {
        "/static/{name}",
        "/sign-in",
        "/sign-out",
        "/language",
        f"{API}/health",
        f"{API}/test-connection",
        "/metrics",
    }


def filled(path: str, **named: str) -> str:
    """`path` with its parameters filled in, by ids of things that are not there where `named` has none."""
    return re.sub(r"\{(\w+)\}", lambda match: named.get(match[1], "nothing"), path)


def call(replica: Replica, key: str | None, method: str, path: str) -> httpx.Response:
    """The answer, of a stream its beginning."""
    headers = {} if key is None else {"X-Runtime-API-Key": key}
    body: dict[str, Any] = {} if method in SAFE else {"json": {}}
    request = replica.http.build_request(method, replica.url + path, headers=headers, **body)
    if key is None:
        del request.headers["X-Runtime-API-Key"]
    answer = replica.http.send(request, stream=True)
    if not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
        answer.read()
    answer.close()
    return answer


@pytest.mark.parametrize("role", Role)
def test_a_key_is_let_in_exactly_where_its_role_may(keyed: Replica, role: Role) -> None:
    keyed.register(OWN)
    task, _ = keyed.leased(OWN)
    key = create_key(keyed, role)["key"]
    # What an admin may do is tried on things that are not there.
    named = {"task_id": task["id"], "worker_id": OWN} if role is Role.WORKER else {}
    for method, path in ROUTES:
        rule = RULES[method, path]
        answer = call(keyed, key, method, filled(path, **named))
        refusal = answer.text if answer.status_code == 403 and method != "HEAD" else ""
        if role in rule.roles or rule.strangers:
            assert answer.status_code != 401 and '"forbidden"' not in refusal, (method, path, answer.status_code)
        else:
            assert answer.status_code == 403, (method, path, answer.status_code)
            assert method == "HEAD" or f"this key's role is {role}" in refusal, (method, path, refusal)


def test_without_a_key_every_guarded_route_is_unauthorized(keyed: Replica) -> None:
    for method, path in ROUTES:
        if not RULES[method, path].strangers:
            answer = call(keyed, None, method, filled(path))
            assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMIN])
def test_a_path_without_a_route_is_the_admins_alone(quiet_keyed: Replica, role: Role) -> None:
    key = create_key(quiet_keyed, role, f"{role} without a route")["key"]
    for method, path in (
        ("GET", f"{API}/nowhere"),
        ("GET", f"{API}/keys/"),
        ("DELETE", f"{API}/llm-tasks"),
        ("GET", API),
    ):
        assert call(quiet_keyed, key, method, path).status_code == 403, path
    assert call(quiet_keyed, None, "GET", "/nowhere").status_code == 404


@pytest.mark.parametrize(("role", "sees"), [(Role.READER, True), (Role.WORKER, False), (Role.JOIN, False)])
def test_a_page_shows_tasks_to_readers_and_nothing_to_workers(keyed: Replica, role: Role, sees: bool) -> None:
    task = keyed.create()
    with shown(keyed, create_key(keyed, role)["key"]) as api:
        page = api.http.get(keyed.url + "/")
    assert page.status_code == (200 if sees else 403)
    assert (task["id"] in page.text) is sees


@pytest.mark.parametrize(
    "written", ["/llm-tasks", "/llm%2Dtasks", "//llm-tasks", "/llm-tasks/", "/./llm-tasks", "/keys%2f"]
)
def test_no_way_of_writing_a_path_gets_around_its_rule(quiet_keyed: Replica, written: str) -> None:
    with shown(quiet_keyed, create_key(quiet_keyed, Role.WORKER, f"for {written}")["key"]) as api:
        answer = api.http.send(httpx.Request("GET", quiet_keyed.url + API + written, headers=api.http.headers))
    assert answer.status_code in (403, 404), written
    assert told(answer, answer.status_code)["code"] in ("forbidden", "not_found")


def test_a_worker_does_not_see_another_worker(keyed: Replica) -> None:
    for name in (OWN, OTHER):
        keyed.register(name)
    with shown(keyed, create_key(keyed, Role.WORKER)["key"]) as api:
        assert told(api.get(f"/workers/{OWN}"))["id"] == OWN
        assert api.get(f"/workers/{OTHER}").status_code == api.get("/workers/nobody").status_code == 403
