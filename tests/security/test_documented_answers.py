"""Whatever a generator makes of the documents, valid or not: no error of the server, and nothing but what is documented."""

from collections.abc import Generator
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks as _checks
from services import EXAMPLES, SERVICES, STREAMS, UNHURRIED, Attacked, app_of
from tests.real_postgres import PostgresServer

# The library tells the types of its own parts only in part.
openapi_checks: Any = _checks
CHECKS: list[Any] = [
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.missing_required_header,
    openapi_checks.unsupported_method,
    openapi_checks.allow_header_conformance,
]
"""Those that look at one answer, but for positive_data_acceptance (a schema cannot say all that a field has to be: text
without NUL, whole numbers written as such, fields that go together) and ignored_auth (the matrices of roles and keys try
that, and who guesses is answered 429). not_a_server_error is stricter here: a 502 or 503 has to be documented, a 500 never is.
"""


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Generator[tuple[str, Attacked]]:
    with SERVICES[request.param](postgres_server) as attacked:
        yield request.param, attacked


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.timeout(0 if EXAMPLES else 120)
def test_nothing_is_answered_that_is_not_documented(service: tuple[str, Attacked], mode: GenerationMode) -> None:
    name, attacked = service
    schema: Any = schemathesis.openapi.from_dict(app_of(name).openapi())
    problems: list[str] = []
    for found in schema.get_all_operations():
        operation: Any = found.ok()
        if operation.path not in STREAMS:
            problems += problems_of(operation, attacked, mode)
    assert not problems, "\n\n".join(problems)


def problems_of(operation: Any, attacked: Attacked, mode: GenerationMode) -> list[str]:
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
        body: Any = case.body
        if isinstance(body, dict) and isinstance(body.get("wait_sec"), int | float):  # pyright: ignore
            body["wait_sec"] = 0  # a test does not poll for long
        answer = case.call(base_url=attacked.url, headers=attacked.headers)
        if answer.status_code >= 500 and str(answer.status_code) not in operation.definition.raw["responses"]:
            problems.append(
                f"{operation.label}: {answer.status_code} {answer.text[:500]} to {case.as_curl_command()[:500]}"
            )
            return
        try:
            case.validate_response(answer, checks=CHECKS)
        except BaseExceptionGroup as error:
            problems.append(f"{operation.label}: {str(error)[:1500]}")

    with suppress(Unsatisfiable):  # nothing can be wrong about a route without parameters and body
        attempt()
    return problems[:2]
