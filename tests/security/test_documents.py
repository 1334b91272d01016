"""The OpenAPI documents are whole: a client can be made from them, and their examples are true to their schemas."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from jsonschema import Draft202012Validator
from services import SERVICES, app_of, operations

both = pytest.mark.parametrize("service", SERVICES)
ERROR = {"$ref": "#/components/schemas/ErrorAnswer"}


@both
def test_every_route_is_documented_but_pages_and_the_document_itself(service: str) -> None:
    documented = {(method, path) for method, path, _ in operations(service)}
    routes = {
        (method, route.path)
        for route in iter_route_contexts(app_of(service).routes)
        for method in route.methods or ()
        if route.path and (service == "membridge" or route.path.startswith("/api/") or route.path == "/metrics")
    }
    assert {
        (m, p.replace(":path", "")) for m, p in routes if m != "HEAD" and not p.endswith("openapi.json")
    } == documented


@both
def test_every_route_has_a_summary_of_its_own_its_errors_and_no_answer_that_is_never_given(service: str) -> None:
    summaries: list[str] = []
    for method, path, operation in operations(service):
        where = (method, path)
        summaries.append(operation["summary"])
        answers = set(operation["responses"])
        assert operation["summary"] and "422" not in answers, where
        assert {"403", "503"} <= answers and (("401" in answers) is ("security" in operation)), where
        assert ("404" in answers) or "{" not in path, where
        assert {"400", "413", "415"} <= answers or "requestBody" not in operation, where
        for status, answer in operation["responses"].items():
            assert answer["description"], where
            if status[0] in "45" and "health" not in path:
                content = answer["content"]["application/json"]
                assert content["schema"] == ERROR and content["examples"], (where, status)
    assert len(set(summaries)) == len(summaries) or service == "runtime"


def examples_of(service: str) -> Iterator[tuple[object, Any, Any]]:
    """Where, schema and example of each body, parameter and answer; no example where one is missing."""
    schemas: dict[str, Any] = app_of(service).openapi()["components"]["schemas"]
    for method, path, operation in operations(service):
        media = [(parameter["name"], parameter) for parameter in operation.get("parameters", ())]
        told = {"body": operation.get("requestBody", {}), **operation["responses"]}
        media += [(what, medium) for what, each in told.items() for medium in each.get("content", {}).values()]
        for what, medium in media:
            schema: dict[str, Any] = medium.get("schema", {})
            named: list[Any] = [medium["example"]] if "example" in medium else []
            named += [example["value"] for example in medium.get("examples", {}).values()]
            if not named:
                schema = schema.get("items") or next((s for s in schema.get("anyOf", ()) if "$ref" in s), schema)
                named = schemas.get(schema.get("$ref", "").rpartition("/")[2], {}).get("examples", [])
            yield (method, path, what), schema, named[0] if named else None


@both
def test_every_body_parameter_and_answer_has_an_example_that_is_valid(service: str) -> None:
    document = app_of(service).openapi()
    for where, schema, example in examples_of(service):
        assert example is not None, where
        validator: Any = Draft202012Validator({**schema, "components": document["components"]})
        assert not [error.message for error in validator.iter_errors(example)], where
