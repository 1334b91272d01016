"""What holds for every page: forms of other sites change nothing, links lead nowhere else, no secret is shown."""

import re
from collections.abc import Generator

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from tests.real_membridge import KEY as MEMBRIDGE_KEY
from tests.real_postgres import PostgresServer
from tests.real_runtime import Replica, told
from visitor import ADMIN_KEY, Visitor, signed_in

from bloom.base.roles import Role
from bloom.base.settings import ServerSettings, load
from bloom.server.access import RULES
from bloom.server.app import build_app
from bloom.ui.pages import own_path


def routes_of_pages(method: str) -> list[str]:
    app = build_app(load(ServerSettings, DATABASE_URL="postgresql://nobody@localhost/nothing", BLOOM_SECRET_KEY="x"))[0]
    found = {
        route.path
        for route in iter_route_contexts(app.routes)
        if route.path and method in (route.methods or ()) and not route.path.startswith("/api/")
    }
    return sorted(found)


POSTS = routes_of_pages("POST")
GETS = [path for path in routes_of_pages("GET") if not path.startswith(("/static", "/live"))]


@pytest.fixture(scope="module")
def keyed(postgres_server: PostgresServer) -> Generator[Replica]:
    with (
        postgres_server.database() as database,
        Replica(database.url, RUNTIME_API_KEY=ADMIN_KEY, MEMBRIDGE_ADMIN_KEY=MEMBRIDGE_KEY) as replica,
    ):
        replica.until_listening()
        yield replica


@pytest.fixture(scope="module")
def named(keyed: Replica) -> dict[str, str]:
    """Things that are there, by the parameters of paths."""
    keyed.register("worker", slots=8)
    task, lease = keyed.leased("worker")
    artifact = told(keyed.complete(task["id"], lease["id"]))["artifact"]
    key = told(keyed.post("/keys", {"name": "a key", "role": "reader"}), 201)
    return {
        "task_id": task["id"],
        "worker_id": "worker",
        "artifact_id": artifact["id"],
        "key_id": key["id"],
        "cid": "0" * 16,
    }


def filled(path: str, named: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: named.get(match[1], "nothing"), path)


@pytest.mark.parametrize("forgery", ["no token", "a wrong token", "the token of nobody", "another site", "a file"])
def test_a_form_that_is_not_of_the_own_session_is_refused(keyed: Replica, named: dict[str, str], forgery: str) -> None:
    before = told(keyed.get("/audit", limit=1))[0]["id"]
    with signed_in(keyed) as visitor, Visitor(keyed.url) as stranger:
        tokens = {"no token": "", "a wrong token": "0" * 64, "the token of nobody": stranger.token()}
        token = tokens.get(forgery) if forgery in tokens else visitor.token("/workers")
        headers = {"Sec-Fetch-Site": "cross-site"} if forgery == "another site" else {}
        fields = [("form_token", ("x", token or ""))] if forgery == "a file" else []
        data = {} if fields else {"form_token": token or ""}
        for path in POSTS:
            answer = visitor.http.post(filled(path, named), headers=headers, data=data, files=fields)
            code = "invalid" if fields and path != "/tasks/new" else "form_expired"  # few forms take a file at all
            assert code in answer.text and answer.status_code in (400, 403), (path, answer.status_code)
    assert told(keyed.get("/audit", limit=1))[0]["id"] == before


@pytest.mark.parametrize("role", [Role.READER, Role.SUBMITTER])
def test_pages_of_other_roles_are_refused_and_not_linked(keyed: Replica, named: dict[str, str], role: Role) -> None:
    with signed_in(keyed, role) as visitor:
        for path in GETS:
            may = role in RULES["GET", path].roles
            answer = visitor.get(filled(path, named))
            assert (answer.status_code == 403) is not may, path
            for method, target in actions_of(answer.text):
                known = [rule for key, rule in RULES.items() if key[0] == method and matches(key[1], target)]
                assert not known or any(role in rule.roles or rule.strangers for rule in known), (path, method, target)


def actions_of(page: str) -> list[tuple[str, str]]:
    """Where the links and the forms of a page lead."""
    links = [("GET", target) for target in re.findall(r'<a [^>]*href="(/[^"?#]*)', page)]
    return links + [("POST", target) for target in re.findall(r'<form method="post" action="(/[^"?#]*)', page)]


def matches(rule: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", rule), path) is not None


def test_no_page_shows_a_secret_and_each_holds_to_its_policy(keyed: Replica, named: dict[str, str]) -> None:
    secrets = [ADMIN_KEY, MEMBRIDGE_KEY, "the secret of the tests"]
    with signed_in(keyed) as visitor:
        cookie = visitor.http.cookies["bloom_session"]
        for path in GETS:
            answer = visitor.get(filled(path, named))
            assert not [secret for secret in [*secrets, cookie] if secret in answer.text + str(answer.headers)], path
            check_policy(path, answer)


def check_policy(path: str, answer: httpx.Response) -> None:
    if not answer.headers.get("content-type", "").startswith("text/html"):
        return
    page = answer.text
    assert "'unsafe" not in answer.headers["content-security-policy"], path
    assert answer.headers["cache-control"] == "no-store", path
    assert not re.search(r"<[^>]+\s(?:style|on\w+)=", page), path
    assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", page)), path
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page), path
    assert page.count("<h1") == 1 and page.count("<main") == 1, path
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids)), (path, sorted({name for name in ids if ids.count(name) > 1}))
    for field in re.findall(r"<(?:input|select|textarea)\b[^>]*>", page):
        name = re.search(r'\sid="([^"]*)"', field)
        labelled = "aria-label" in field or (name and f'for="{name[1]}"' in page) or 'type="checkbox"' in field
        assert 'type="hidden"' in field or labelled, (path, field)


@pytest.mark.parametrize(
    "text",
    ["//evil.example", "/\\evil.example", "https://evil.example", "javascript:alert(1)", "\\\\evil", "", "workers", "/a\r\nb",
     "/a b", "/ї", "/" + "x" * 3000, "/\tevil", " /workers"],
)  # fmt: skip
def test_what_is_no_path_of_ours_leads_to_the_overview(keyed: Replica, text: str) -> None:
    assert own_path(text) == "/"
    with Visitor(keyed.url) as visitor:
        assert visitor.sign_in(ADMIN_KEY, next=text).headers["location"] == "/"
        assert visitor.post("/language", language="en", next=text).headers["location"] == "/"


@pytest.mark.parametrize(
    "text", ["/", "/workers", "/audit?action=task_created&zone=Europe%2FKyiv", "/workers/pi%20one#runs"]
)
def test_paths_of_ours_are_followed(text: str) -> None:
    assert own_path(text) == text
