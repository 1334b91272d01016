"""Every field of every request, as the documents and the pages name them, filled with what nobody means: at worst a 400."""

import json
import re
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from services import EXAMPLES, KEY, SERVICES, STREAMS, UNHURRIED, Attacked, app_of, attacked_runtime, operations
from tests.keys.key_holders import routes_of_the_runtime
from tests.real_postgres import PostgresServer
from tests.real_runtime import API

RAW = "raw:"
"""Marks what is put into the JSON as it stands, for no value of Python would be written so."""

VALUES: tuple[Any, ...] = (
    "NUL \x00 inside",
    "\ud800 alone",
    "\u202eevil\u202c \u2066\u200f\ufeff",
    "'; drop table tasks; --",
    "../" * 20 + "etc/passwd",
    "x" * 300_000,
    "\r\nX-Injected: 1",
    "%s%n{0}${7*7}{{7*7}}",
    None,
    True,
    -1,
    1.5,
    -1e308,
    2**63,
    10**300,
    [],
    {},
    [[[["\x00"]]]],
    {"\x00": "\ud800"},
    f"{RAW}NaN",
    f"{RAW}-Infinity",
    f"{RAW}1e999",
    RAW + "9" * 5000,
    RAW + "[" * 100_000 + "]" * 100_000,
    RAW + '{"a":' * 5000 + "1" + "}" * 5000,
    RAW + '"\xff"',
)
LARGE = "y" * 10_000_000


def fields_of(
    schemas: dict[str, Any], schema: dict[str, Any], at: tuple[str | int, ...] = ()
) -> Iterator[tuple[str | int, ...]]:
    """The path of each field that a schema names."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    for inner in schema.get("anyOf", ()):
        yield from fields_of(schemas, inner, at)
    for name, inner in schema.get("properties", {}).items():
        yield (*at, name)
        yield from fields_of(schemas, inner, (*at, name))
    if "items" in schema:
        yield (*at, 0)
        yield from fields_of(schemas, schema["items"], (*at, 0))


def placed(body: Any, at: tuple[str | int, ...], value: Any) -> Any:
    """A copy of `body` with `value` at this path, which is made where it is not there."""
    if not at:
        return value
    if isinstance(at[0], int):
        items: list[Any] = list(body) if isinstance(body, list) else []  # pyright: ignore[reportUnknownArgumentType]
        return [placed(items[0] if items else None, at[1:], value), *items[1:]]
    fields: dict[str, Any] = dict(body) if isinstance(body, dict) else {}  # pyright: ignore[reportUnknownArgumentType]
    return {**fields, at[0]: placed(fields.get(at[0]), at[1:], value)}


def written(body: Any) -> bytes:
    """`body` as JSON, with what is marked as raw put in as it is."""
    text = json.dumps(body)
    return re.sub(rf'"{RAW}((?:[^"\\]|\\.)*)"', lambda match: json.loads(f'"{match[1]}"'), text).encode("latin-1")


checked: Counter[int] = Counter()


def check(answer: httpx.Response, where: object) -> None:
    """Not an error of the server, and of the form of the contract."""
    checked[answer.status_code] += 1
    assert answer.status_code < 500 or answer.status_code in (502, 503), (where, answer.status_code, answer.text[:300])
    if answer.status_code >= 400:
        said = answer.json()
        assert said["code"] and said["error"], where
    for word in ("Traceback", "psycopg", "SELECT ", "insert into", ".py"):
        assert word not in answer.text, (where, word)


def bodies(service: str) -> Iterator[tuple[str, str, Any, list[tuple[str | int, ...]]]]:
    """Method, path, a good body, and the fields of each route that takes JSON."""
    schemas: dict[str, Any] = app_of(service).openapi()["components"]["schemas"]
    for method, path, operation in operations(service):
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        if schema is not None:
            ref = next((each for each in schema.get("anyOf", ()) if "$ref" in each), schema)["$ref"]
            yield (
                method,
                path,
                schemas[ref.rpartition("/")[2]]["examples"][0],
                list(dict.fromkeys(fields_of(schemas, schema))),
            )


def filled(path: str, named: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: named.get(match[1], "nothing"), path)


@pytest.fixture(autouse=True)
def told_how_many() -> Generator[None]:
    """Says how much a test has tried."""
    checked.clear()
    yield
    print(f"{checked.total()} requests, by status {dict(sorted(checked.items()))}")  # noqa: T201


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Generator[tuple[str, Attacked]]:
    with SERVICES[request.param](postgres_server) as attacked:
        yield request.param, attacked


def test_each_field_of_each_body(service: tuple[str, Attacked]) -> None:
    name, attacked = service
    count = 0
    for method, path, good, fields in bodies(name):
        url = filled(path, attacked.named)
        for at in [(), *fields]:
            for number, value in enumerate(VALUES):
                # The short form gives each field some, and each value many fields.
                if EXAMPLES or (number + count) % 11 == 0:
                    content = written(placed(good, at, value))
                    answer = attacked.http.request(
                        method, url, content=content, headers={"Content-Type": "application/json"}
                    )
                    check(answer, (method, path, at, repr(value)[:60]))
            count += 1
    print(f"{name}: {count} bodies and fields")  # noqa: T201
    assert count > 20


def test_ten_megabytes_in_a_field(service: tuple[str, Attacked]) -> None:
    name, attacked = service
    for method, path, good, fields in list(bodies(name))[:: 1 if EXAMPLES else 8]:
        for at in fields[: None if EXAMPLES else 1]:
            answer = attacked.http.request(method, filled(path, attacked.named), json=placed(good, at, LARGE))
            check(answer, (method, path, at))


@pytest.mark.timeout(0 if EXAMPLES else 120)
def test_each_field_of_each_body_with_what_is_made_up(service: tuple[str, Attacked]) -> None:
    anything = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters(), max_size=200)
        | st.sampled_from(VALUES),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
        max_leaves=20,
    )
    name, attacked = service
    count = 0
    for method, path, good, fields in bodies(name):
        for at in fields:
            if at[-1] == "wait_sec":  # a good one is waited for
                continue
            count += 1
            if EXAMPLES or count % 8 == 0:
                attack(attacked, method, path, good, at, anything)


def attack(
    attacked: Attacked, method: str, path: str, good: Any, at: tuple[str | int, ...], anything: st.SearchStrategy[Any]
) -> None:
    """Put what `anything` makes up into one field of a good body."""

    @settings(
        max_examples=EXAMPLES or 2,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=UNHURRIED,
    )
    @given(value=anything)
    def attempt(value: Any) -> None:
        headers = {"Content-Type": "application/json"}
        content = written(placed(good, at, value))
        answer = attacked.http.request(method, filled(path, attacked.named), content=content, headers=headers)
        check(answer, (method, path, at, repr(value)[:200]))

    attempt()


TEXTS = (
    "%00",
    "%ED%A0%80",
    "%FF",
    "%E2%80%AE",
    "x" * 5000,
    "%27%3B--",
    "1e999",
    "NaN",
    "-1",
    "9" * 400,
    "%0d%0aX:1",
    "",
)


def test_each_parameter_of_each_path_and_query(service: tuple[str, Attacked]) -> None:
    name, attacked = service
    for method, path, operation in operations(name):
        if path in STREAMS:
            continue
        for number, text in enumerate(TEXTS):
            for position, parameter in enumerate(operation.get("parameters", ())):
                if not EXAMPLES and (number + position) % 4:
                    continue
                target, query = filled(path, attacked.named), ""
                if parameter["in"] == "path":
                    target = filled(path.replace(f"{{{parameter['name']}}}", text), attacked.named)
                elif parameter["in"] == "query":
                    query = f"?{parameter['name']}={text}"
                body: dict[str, Any] = {} if method in ("GET", "HEAD", "DELETE") else {"json": {}}
                url = httpx.URL(attacked.url).copy_with(raw_path=(target + query).encode())
                check(attacked.http.request(method, url, **body), (method, path, parameter["name"], text[:20]))


FORM_TEXTS = (
    "NUL \x00 inside",
    "\u202eevil",
    "x" * 20_000,
    "'; --",
    "1e999",
    "9" * 5000,
    "NaN",
    "-1",
    "../../x",
    "\r\nX: 1",
    "",
)
FIELD = re.compile(r'<(?:input|select|textarea)\b[^>]*\bname="([^"]+)"')
TOKEN = re.compile(r'name="form_token" value="([0-9a-f]{64})"')


def test_each_field_of_each_form(postgres_server: PostgresServer) -> None:
    with attacked_runtime(postgres_server) as attacked, httpx.Client(base_url=attacked.url, trust_env=False) as browser:
        browser.headers["Accept"] = "text/html"
        token = TOKEN.search(browser.get("/sign-in").text)
        assert token and browser.post("/sign-in", data={"form_token": token[1], "key": KEY}).status_code == 303
        routes = sorted(routes_of_the_runtime())
        pages = [p for m, p in routes if m == "GET" and not p.startswith(("/api", "/live", "/static", "/metrics"))]
        texts = [browser.get(filled(path, attacked.named)).text for path in pages]
        names = sorted({name for text in texts for name in FIELD.findall(text)} - {"form_token"})
        known = next(match[1] for text in texts if (match := TOKEN.search(text)))
        assert {"prompt", "membridge_url", "language", "hours", "agent"} & set(names)
        for method, path in routes:
            # Removing and revoking take no text, and signing out ends this.
            if (
                method == "POST"
                and not path.startswith("/api")
                and not path.endswith(("/remove", "/revoke", "sign-out"))
            ):
                for number, text in enumerate(FORM_TEXTS):
                    some = names if EXAMPLES else names[number :: 4 * len(FORM_TEXTS)]
                    for fields in (dict.fromkeys(names, text), *({name: text} for name in some)):
                        answer = browser.post(filled(path, attacked.named), data={"form_token": known, **fields})
                        checked[answer.status_code] += 1
                        assert answer.status_code < 500 or answer.status_code == 502, (path, fields.keys(), text[:20])
                        assert "Traceback" not in answer.text


@pytest.mark.parametrize("service", ["runtime"], indirect=True)  # at Membridge no field has a name of the caller's
@pytest.mark.parametrize("name", ["nul \x00", "\ud800 alone", "\ud83e"])
def test_a_name_that_cannot_be_stored_is_refused_wherever_names_are_free(
    service: tuple[str, Attacked], name: str
) -> None:
    """Documents name no such field, so none of the tests above makes one up."""
    _, attacked = service
    task = attacked.named["task_id"]
    report = {"status": "error", "error_message": "no", "lease_id": attacked.named["lease_id"]}
    event = {"seq": 0, "type": "text"}
    for path, body in (
        (f"/llm-tasks/{task}/complete", {**report, "metrics": {"duration_ms": 1, name: 1}}),
        (f"/llm-tasks/{task}/complete", {**report, "metrics": {"duration_ms": 1, "own": [{name: 1}]}}),
        (f"/llm-tasks/{task}/events", {"lease_id": report["lease_id"], "events": [{**event, "data": {name: 1}}]}),
        (
            f"/llm-tasks/{task}/events",
            {"lease_id": report["lease_id"], "events": [{**event, "data": {"a": {name: 1}}}]},
        ),
    ):
        headers = {"Content-Type": "application/json"}
        answer = attacked.http.post(f"{API}{path}", content=json.dumps(body), headers=headers)
        assert answer.status_code == 400 and answer.json()["code"] in ("invalid", "invalid_json"), (
            path,
            body,
            answer.text,
        )
