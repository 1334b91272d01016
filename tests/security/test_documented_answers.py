"""Whatever a generator makes of the documents, valid or not: no error of the server, and nothing but what is documented."""

import re
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from copy import deepcopy
from itertools import count
from typing import Any, cast
from uuid import uuid4

import pytest
import schemathesis
from fastapi import FastAPI, HTTPException
from hypothesis import Phase, given, settings
from hypothesis.errors import Flaky, Unsatisfiable
from pydantic import BaseModel
from schemathesis import GenerationMode
from schemathesis import checks as _all_checks
from schemathesis.specs.openapi import checks as _checks
from services import EXAMPLES, SERVICES, STREAMS, UNHURRIED, Attacked, app_of
from tests.real_postgres import PostgresServer

from bloom.membridge.schemas import LONGEST_POLL_SEC

# The library tells the types of its own parts only in part.
openapi_checks: Any = _checks
all_checks: Any = _all_checks
CHECKS: list[Any] = [
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.missing_required_header,
    openapi_checks.unsupported_method,
    openapi_checks.allow_header_conformance,
    openapi_checks.ignored_auth,
]
"""Those that look at one answer. `positive_data_acceptance` is below, with what it may refuse."""

OF_SEVERAL_ANSWERS: list[Any] = [
    openapi_checks.status_code_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.use_after_free,
    openapi_checks.ensure_resource_availability,
]

ELSEWHERE = {
    "not_a_server_error",  # stricter here: a 502 or 503 has to be documented, a 500 never is
    "positive_data_acceptance",  # is called by itself, see UNSAID
    "object_level_authorization",  # cannot hold: there are no tenants, each reader sees all (SECURITY.md)
}
"""What the library knows besides, and where that is."""

UNSAID = (
    r"Must be a cursor from the Link header of the page before, or left out",  # only a page before knows one
    r"Must be printable, without spaces around it",  # no pattern of JSON Schema says what is printable
    r"Must not contain a slash, and not be \. or \.\.",
    r"Must be an address like http://.*",  # `format: uri` asserts nothing, and allows more than HTTP
    r"Must be 1 to 1024 printable ASCII characters",
    r"Required, or admin_key",  # fields that go together
    r"worker_name (must say which worker the key is for|is for the roles worker and join)",
    r"Give expires_in_sec or expires_at, not both",
    r"output_ref (takes the place of the output of a success|comes with output_size and output_sha256)",
    r"Must be a URL such as http://host\.example:8001",
    r"Must not be blank",
    r"Must be at most 4611686018427387904",  # the library reckons in floats there
    r"Must be the name of which canonical_id is the first 16 hex digits of the SHA-256",
    r"Must be projects/[0-9a-f]{16}/sqlite/versions/.*",  # made of the other fields
)
"""What well-formed data may be refused for all the same: a schema cannot say it, or only in a way that nobody can read."""

addresses = count(1)


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Generator[tuple[str, Attacked]]:
    with SERVICES[request.param](postgres_server) as attacked:
        yield request.param, attacked


def test_no_check_of_the_library_is_forgotten() -> None:
    used = {check.__name__ for check in (*CHECKS, *OF_SEVERAL_ANSWERS)}
    assert {check.__name__ for check in all_checks.CHECKS.get_all()} == used | ELSEWHERE


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.timeout(0 if EXAMPLES else 120)
def test_nothing_is_answered_that_is_not_documented(service: tuple[str, Attacked], mode: GenerationMode) -> None:
    name, attacked = service
    schema: Any = schemathesis.openapi.from_dict(document_of(name, keys=mode is GenerationMode.POSITIVE))
    problems: list[str] = []
    tried: Counter[int] = Counter()
    for found in schema.get_all_operations():
        problems += problems_of(found.ok(), attacked, mode, tried)
    print(f"{name}, {mode.value}: {tried.total()} requests, by status {dict(sorted(tried.items()))}")  # noqa: T201
    assert not problems, "\n\n".join(problems)


def document_of(service: str, *, keys: bool) -> dict[str, Any]:
    """What is attacked, but for streams. Without `keys` nobody knows of these: bad keys hide what else is bad."""
    document = deepcopy(app_of(service).openapi())
    document["paths"] = {path: methods for path, methods in document["paths"].items() if path not in STREAMS}
    for operation in (each for methods in document["paths"].values() for each in methods.values()):
        if not keys:
            operation.pop("security", None)
    return document


def problems_of(operation: Any, attacked: Attacked, mode: GenerationMode, tried: Counter[int]) -> list[str]:
    """What is wrong with the answers of one route."""
    # Half the work is done by things that are there, half by names that a generator makes up.
    named = attacked.named if mode is GenerationMode.POSITIVE else {}
    fixed = {name: value for name, value in named.items() if f"{{{name}}}" in operation.path}
    problems: list[str] = []

    @settings(
        max_examples=EXAMPLES or 1,
        database=None,
        deadline=None,
        derandomize=not EXAMPLES,
        phases=[Phase.generate],
        suppress_health_check=UNHURRIED,
    )
    @given(case=operation.as_strategy(generation_mode=mode, path_parameters=fixed or None))
    def attempt(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            case.body, case.query = storable(case.body), storable(case.query)
        answer = sent(case, attacked)
        tried[answer.status_code] += 1
        if answer.status_code >= 500 and str(answer.status_code) not in operation.definition.raw["responses"]:
            problems.append(
                f"{operation.label}: {answer.status_code} {answer.text[:500]} to {case.as_curl_command()[:500]}"
            )
            return
        acceptance = [] if unsaid(answer) else [openapi_checks.positive_data_acceptance]
        try:
            case.validate_response(answer, checks=[*CHECKS, *acceptance], headers=attacked.headers)
        except BaseExceptionGroup as error:
            problems.append(f"{operation.label}: {str(error)[:1500]}")

    with suppress(Unsatisfiable):  # nothing can be wrong about a route without parameters and body
        attempt()
    return problems[:2]


def sent(case: Any, attacked: Attacked) -> Any:
    """The answer to a case, each from an address of its own: `ignored_auth` shows wrong keys, and guessers have to wait."""
    body: Any = case.body
    wait: Any = cast("dict[str, Any]", body).get("wait_sec") if isinstance(body, dict) else None
    if type(wait) in (int, float) and 0 < wait <= LONGEST_POLL_SEC:
        body["wait_sec"] = 0  # a test does not poll for long; what is no good wait stays as it is
    number = next(addresses)
    case.headers["X-Forwarded-For"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return case.call(base_url=attacked.url, headers=attacked.headers)


def storable(value: Any) -> Any:
    """`value` without what a schema allows everywhere and this wire nowhere: NUL, lone surrogates, 1.0 for a whole number."""
    match value:
        case str():
            return re.sub("[\0\ud800-\udfff]", "x", value)
        case float() if value.is_integer():
            return int(value)
        case list():
            return [storable(each) for each in cast("list[Any]", value)]
        case dict():
            return {storable(name): storable(each) for name, each in cast("dict[str, Any]", value).items()}
        case _:
            return value


def unsaid(answer: Any) -> bool:
    """Whether each reason of a refusal is one that the document does not tell; of a body that is too large, too."""
    if answer.status_code != 400:
        return answer.status_code == 413
    error: Any = answer.json()["error"]
    if isinstance(error, str):
        return False
    reasons: list[str] = [*error["formErrors"], *(text for texts in error["fieldErrors"].values() for text in texts)]
    return bool(reasons) and all(any(re.fullmatch(known, reason) for known in UNSAID) for reason in reasons)


def chains(schema: Any, call: Callable[[Any], Any]) -> tuple[list[str], Counter[str]]:
    """What is wrong with chains of calls, each of which takes the ids that the one before answered; and the routes called."""
    machine: Any = schema.as_state_machine()
    steps: Counter[str] = Counter()
    problems: list[str] = []

    class Chain(machine):
        def call(self, case: Any, **_: Any) -> Any:
            steps[case.operation.label] += 1
            return call(case)

        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            try:
                case.validate_response(response, checks=OF_SEVERAL_ANSWERS, recorder=self.recorder)
            except BaseExceptionGroup as error:
                problems.append(f"{case.operation.label}: {str(error)[:1500]}")

    chain: Any = Chain
    few = settings(
        max_examples=5,
        stateful_step_count=10,
        database=None,
        deadline=None,
        derandomize=not EXAMPLES,
        phases=[Phase.generate],
        suppress_health_check=UNHURRIED,
    )
    for _ in range(max(1, EXAMPLES // 2)):
        with suppress(Flaky):  # a service remembers the chains before; Hypothesis then ends the round
            chain.run(settings=few)
    return problems, steps


@pytest.mark.timeout(0 if EXAMPLES else 120)
def test_what_was_made_is_there_and_what_was_removed_is_not(service: tuple[str, Attacked]) -> None:
    name, attacked = service
    schema: Any = schemathesis.openapi.from_dict(document_of(name, keys=False))
    problems, steps = chains(schema, lambda case: sent(case, attacked))
    print(f"{name}: {steps.total()} steps of chains over {len(steps)} routes")  # noqa: T201
    assert not problems, "\n\n".join(problems[:5])
    assert schema.statistic.transitions.total > 10 and len(steps) > 5


class Thing(BaseModel):
    id: str


@pytest.mark.parametrize(("forgets", "found"), [(False, "previously deleted"), (True, "just created")])
def test_chains_find_what_outlives_its_removal_and_what_is_not_kept(forgets: bool, found: str) -> None:
    """The control of the test above, with a service that is wrong."""
    app, there = FastAPI(), set[str]()

    def make() -> Thing:
        thing = Thing(id=str(uuid4()))
        there.update([] if forgets else [thing.id])
        return thing

    def get(thing_id: str) -> Thing:
        if thing_id not in there:
            raise HTTPException(404)
        return Thing(id=thing_id)

    def remove(thing_id: str) -> dict[str, str]:
        return {"removed": thing_id}

    missing: Any = {404: {"description": "Not there"}}
    app.add_api_route("/things", make, methods=["POST"], status_code=201)
    app.add_api_route("/things/{thing_id}", get, methods=["GET"], responses=missing)
    app.add_api_route("/things/{thing_id}", remove, methods=["DELETE"], responses=missing)
    problems, _ = chains(schemathesis.openapi.from_asgi("/openapi.json", app), lambda case: case.call())
    assert any(found in problem for problem in problems), problems
