"""What a request cannot do: leave what is served, write headers, lead a browser away, or learn a key by time."""

import ast
import re
from collections.abc import Generator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from services import Attacked, attacked_membridge, attacked_runtime
from tests.real_postgres import PostgresServer
from tests.real_runtime import API, told

import bloom

SOURCES = Path(bloom.__file__).parent
UP = ("..", "%2e%2e", "..%2f", "%2e%2e%2f", "..%5c", "%252e%252e%252f", "....//", "%c0%ae%c0%ae/", "%00", "/")
SECRET_FILES = ("etc/passwd", "pyproject.toml", "pages.py", "secret.key", "__init__.py")


@pytest.fixture(scope="module")
def runtime(postgres_server: PostgresServer) -> Generator[Attacked]:
    with attacked_runtime(postgres_server) as attacked:
        yield attacked


@pytest.fixture(scope="module")
def membridge(postgres_server: PostgresServer) -> Generator[Attacked]:
    with attacked_membridge(postgres_server) as attacked:
        yield attacked


def sent(attacked: Attacked, method: str, path: str, **headers: str) -> httpx.Response:
    """The answer to a path that is sent as it is written."""
    url = httpx.URL(attacked.url).copy_with(raw_path=path.encode("ascii"))
    return attacked.http.send(httpx.Request(method, url, headers={**attacked.headers, **headers}))


@pytest.mark.parametrize("up", UP)
def test_no_path_leads_out_of_what_is_served(runtime: Attacked, up: str) -> None:
    for below in ("/static/", f"{API}/artifacts/", f"{API}/llm-tasks/", "/artifacts/", "/membridge/", "/tasks/"):
        for name in SECRET_FILES:
            answer = sent(runtime, "GET", f"{below}{up}/{up}/{up}{name}")
            assert answer.status_code in (303, 307, 400, 401, 404), (below, up, name)
            assert "root:" not in answer.text and "import" not in answer.text


def test_the_id_of_a_project_cannot_change_the_path_that_membridge_is_asked(runtime: Attacked) -> None:
    for cid in ("..", "%2e%2e", "a%2fb", "a%3fx=1", "a%23", "a%0d%0aX:1", "a%00", "x" * 200, "%E2%80%AE"):
        for tail in ("/leadership", "/nodes"):
            assert sent(runtime, "GET", f"/api/membridge/projects/{cid}{tail}").status_code in (400, 404), (cid, tail)


BREAKS = ("a\r\nX-Injected: 1", "a\nSet-Cookie: x=1", "a%0d%0aX-Injected:1", "a\u2028b", "a\u0085b", '"; filename="x')


@pytest.mark.parametrize("text", BREAKS)
def test_no_text_of_a_caller_becomes_a_header(runtime: Attacked, text: str) -> None:
    http, named = runtime.http, runtime.named
    fields = {"context_id": text, "agent_slug": text, "prompt": text}
    content = http.get(f"{API}/artifacts/{named['artifact_id']}/content")
    for answer in (
        http.post(f"{API}/workers", json={"name": text}),
        http.get(f"{API}/workers/{quote(text, safe='')}"),
        http.post(f"{API}/llm-tasks", json=fields),
        http.post(f"{API}/keys", json={"name": text, "role": "reader"}),
        http.get(f"{API}/llm-tasks", params={"status": text, "cursor": text, "limit": 1}),
        http.get(f"{API}/artifacts", params={"task_id": text}),
        http.get("/sign-in", params={"next": text}),
        http.get("/audit/download", params={"actor": text}),
        content,
    ):
        assert answer.status_code < 500, (answer.url, answer.text)
        assert "x-injected" not in answer.headers and "x=1" not in answer.headers.get("set-cookie", ""), answer.url
    assert re.fullmatch(r'attachment; filename="[\w-]+"', content.headers["content-disposition"])


def test_a_page_of_a_list_that_asks_for_another_host_is_told_no_host(runtime: Attacked) -> None:
    answer = sent(
        runtime, "GET", f"{API}/llm-tasks?limit=1", Host="evil.example", **{"X-Forwarded-Host": "evil.example"}
    )
    assert answer.headers["link"].startswith("<?") and "evil.example" not in str(answer.headers.raw) + answer.text
    for path in ("/sign-in", "/", "/tasks"):
        answer = sent(runtime, "GET", path, Host="evil.example", **{"X-Forwarded-Host": "evil.example"})
        assert "evil.example" not in str(answer.headers.raw) + answer.text, path


def test_cookies_are_out_of_reach_of_scripts_and_of_other_sites(runtime: Attacked) -> None:
    with httpx.Client(base_url=runtime.url, headers={"Accept": "text/html"}, trust_env=False) as http:
        page = http.get("/sign-in")
        token = re.search(r'name="form_token" value="([0-9a-f]{64})"', page.text)
        assert token
        signed = http.post("/sign-in", data={"form_token": token[1], "key": runtime.headers["X-Runtime-API-Key"]})
        assert signed.status_code == 303
        language = http.post("/language", data={"form_token": token[1], "language": "uk", "next": "//evil.example"})
    cookies = [line for answer in (page, signed, language) for line in answer.headers.get_list("set-cookie")]
    assert cookies
    for line in cookies:
        flags = {flag.strip().lower() for flag in line.split(";")[1:]}
        assert "httponly" in flags and flags & {"samesite=lax", "samesite=strict"} and "path=/" in flags, line
        assert not [flag for flag in flags if flag.startswith("domain=")], line


def test_a_405_names_every_method_that_the_path_knows(runtime: Attacked, membridge: Attacked) -> None:
    for attacked, path, methods in (
        (membridge, "/projects", "GET, POST"),
        (membridge, "/agents", "GET, POST"),
        (runtime, f"{API}/llm-tasks", "GET, POST"),
        (runtime, f"{API}/workers/pi4", "DELETE, GET"),
    ):
        answer = sent(attacked, "PATCH", path)
        assert told(answer, 405)["code"] == "method_not_allowed" and answer.headers["allow"] == methods, path


_SECRET = re.compile(r"(?:^|_)(?:key|secret|token|digest|signature|password|passphrase|mac)s?$")


def names_of_secrets(compared: ast.Compare) -> list[str]:
    """The names in a comparison that look like those of a secret, if it is one of two texts that somebody could guess."""
    sides = [compared.left, *compared.comparators]
    if not all(isinstance(op, ast.Eq | ast.NotEq) for op in compared.ops) or any(
        isinstance(s, ast.Constant) for s in sides
    ):
        return []
    names = [side.attr if isinstance(side, ast.Attribute) else getattr(side, "id", "") for side in sides]
    return [name for name in names if _SECRET.search(name)]


NO_SECRETS = {"sync", "backup", "predecessor", "blobs", "audit", "artifacts", "worker", "tasks", "cli", "client", "db"}
"""Parts whose keys and digests are those of columns, objects and files: nobody shows them to get in."""

HARMLESS = {
    "web/asgi.py": {"key"},  # the name of a header
    "upstream/sealing.py": {"secret"},  # whether what was derived from it is still right
    "upstream/service.py": {"key", "one", "other"},  # an admin's new key with a mask
}


def test_what_is_presented_is_compared_with_a_secret_in_constant_time() -> None:
    found: dict[str, list[str]] = {}
    for source in SOURCES.rglob("*.py"):
        part = source.relative_to(SOURCES)
        if part.parts[0] in NO_SECRETS:
            continue
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and (names := names_of_secrets(node)):
                found.setdefault(str(part), []).extend(names)
    assert {part for part, names in found.items() if not set(names) <= HARMLESS.get(part, set())} == set(), found
    for part, count in {"web/auth.py": 1, "web/sessions.py": 1}.items():
        assert (SOURCES / part).read_text(encoding="utf-8").count("compare_digest(") >= count, part
