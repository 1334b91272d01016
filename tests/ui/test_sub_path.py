"""Pages below a path of somebody else's site, and the pages of errors."""

import re

import pytest
from tests.real_runtime import Replica, StartReplica
from visitor import ADMIN_KEY, Visitor, words_of

PAGES = (
    "/",
    "/tasks",
    "/workers",
    "/workers/pi",
    "/workers/pi/remove",
    "/add-worker",
    "/artifacts",
    "/leases",
    "/audit",
    "/membridge",
    "/settings",
)


@pytest.fixture
def below(start_replica: StartReplica) -> Replica:
    replica = start_replica(RUNTIME_API_KEY=ADMIN_KEY, BLOOM_BASE_PATH="/bloom/")
    replica.register("pi")
    return replica


@pytest.mark.parametrize("stripped", [False, True])
def test_every_link_of_every_page_stays_below_the_path(below: Replica, stripped: bool) -> None:
    base = "" if stripped else "/bloom"  # what the proxy leaves of the path
    with Visitor(below.url, base=base) as visitor:
        answer = visitor.get("/leases", status="all")
        assert answer.headers["location"] == "/bloom/sign-in?next=%2Fleases%3Fstatus%3Dall"
        answer = visitor.sign_in(ADMIN_KEY, next="/leases?status=all")
        assert answer.headers["location"] == "/bloom/leases?status=all"
        assert "Path=/bloom;" in answer.headers["set-cookie"]
        visitor.http.headers["Cookie"] = answer.headers["set-cookie"].split(";")[0]
        for path in PAGES:
            page = visitor.page(path)
            links = re.findall(r'\s(?:href|src|action|sse-connect)="(/[^"]*)"', page)
            assert links and all(link.startswith("/bloom/") for link in links), (path, links)
            assert 'aria-current="page"' in page or path.count("/") > 1 or path == "/add-worker", path
        stylesheet = re.search(r'href="/bloom(/static/pages\.css[^"]*)"', visitor.page("/workers"))
        assert stylesheet and visitor.get(stylesheet[1]).headers["content-type"].startswith("text/css")
        assert visitor.post("/workers/pi/drain").headers["location"] == "/bloom/workers/pi?notice=worker_drained"


def test_a_live_region_comes_over_the_sub_path(below: Replica) -> None:
    headers = {"X-Runtime-API-Key": ADMIN_KEY}
    with below.http.stream("GET", f"{below.url}/bloom/live/workers", headers=headers) as stream:
        text = ""
        for piece in stream.iter_text():
            text += piece
            if "event: region" in text and "\n\n" in text.split("event: region")[1]:
                break
    assert 'href="/bloom/workers/pi"' in text and "form_token" not in text


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nowhere", 404, "There is nothing here"),
        ("GET", "/workers/nobody", 404, "There is no such worker"),
        ("GET", "/artifacts/<script>alert(1)<script>", 404, "There is no such artifact"),
        ("GET", "/leases?cursor=%00", 400, "cursor"),
        ("PUT", "/workers", 405, "takes no such request"),
    ],
)
def test_an_error_is_a_page_for_a_browser_and_json_for_others(
    quiet_runtime: Replica, method: str, path: str, status: int, words: str
) -> None:
    with Visitor(quiet_runtime.url) as visitor:
        answer = visitor.http.request(method, path)
        assert answer.status_code == status and words in words_of(answer.text)
        assert "<nav" in answer.text and "<script>alert" not in answer.text
        assert answer.headers["x-request-id"] in answer.text
        plain = visitor.http.request(method, path, headers={"Accept": "*/*"})
        assert plain.status_code == status and plain.json()["code"]


def test_a_database_that_is_away_is_a_page_that_says_so(start_replica: StartReplica) -> None:
    replica = start_replica()
    replica.run(replica.services.database.close())
    with Visitor(replica.url) as visitor:
        answer = visitor.get("/workers")
        assert answer.status_code == 503 and "The database does not answer" in words_of(answer.text)
        assert answer.headers["retry-after"]
