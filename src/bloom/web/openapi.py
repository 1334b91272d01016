"""What the OpenAPI document tells beyond what the framework finds in the signatures: errors, keys and examples.

The framework documents its own 422, which no caller ever sees. What every route may answer is added here, from its shape: a
route with a path names things that may be missing, one with a body may be sent too much. What only some routes answer (409,
502, a second success) is said where they are declared, by `responses=`; the body of an error is filled in here.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

IsOpen = Callable[[str, str], bool]
"""Whether a route (method, path as it is declared) asks nobody for a key."""

Responses = dict[int | str, dict[str, Any]]

_OWN_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    429: "rate_limited",
    502: "upstream",
    503: "unavailable",
}
_TEXTS = {
    400: "A parameter or the body is not of the required form; `fieldErrors` names each bad field",
    401: "No valid key",
    403: "The key's role may not do this; without keys: the request came from elsewhere, or from a foreign web page",
    404: "There is nothing under this id",
    409: "The state of the thing does not allow this now; nothing was changed",
    413: "The body is over the limit",
    415: "Without keys: the body is not sent as JSON",
    429: "Too often; `Retry-After` says when to try again",
    502: "A service behind this one failed",
    503: "Not now: the database does not answer, or too much is under way; trying again later is right",
}


class FieldErrors(BaseModel):
    """What is wrong with a request: by the dotted path of each field, and of the whole body."""

    formErrors: list[str]  # noqa: N815 (the wire)
    fieldErrors: dict[str, list[str]]  # noqa: N815


class ErrorAnswer(BaseModel):
    """The body of every answer that is no success. `code` is stable; what else an error tells stands beside it."""

    model_config = ConfigDict(extra="allow")

    error: str | FieldErrors
    code: str = Field(min_length=1)


def conflict(text: str) -> Responses:
    """A `responses=` with a 409."""
    return {409: {"description": text}}


OTHER_PROTOCOL: Responses = conflict("`protocol_mismatch`: the worker speaks a version that this runtime does not")


def streamed(kind: str, text: str) -> Responses:
    """A `responses=` with a 200 of content type `kind`, such as `text`."""
    return {200: {"content": {kind: {"schema": {"type": "string"}, "example": text}}}}


def answered(example: Any) -> Responses:
    """A `responses=` with a 200 whose JSON has no schema of ours, such as `example`."""
    return {200: {"content": {"application/json": {"example": example}}}}


def repeated(model: Any, text: str) -> Responses:
    """A `responses=` with a 200 beside the 201."""
    return {200: {"model": model, "description": text}}


def describe(
    app: FastAPI,
    *,
    key_header: str,
    is_open: IsOpen,
    is_limited: IsOpen,
    examples: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> None:
    """Make `app.openapi()` the whole document. `examples` are by the name of their schema, `parameters` by theirs."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                routes=app.routes,
                description=app.description,
                tags=app.openapi_tags,
            )
            schemas: dict[str, Any] = document["components"]["schemas"]
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            errors = ErrorAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= errors.pop("$defs")
            schemas["ErrorAnswer"] = errors
            for name, example in examples.items():
                schemas[name]["examples"] = [example]
            document["components"]["securitySchemes"] = {"key": {"type": "apiKey", "in": "header", "name": key_header}}
            for path, operations in document["paths"].items():
                for method, operation in operations.items():
                    _complete(
                        operation,
                        guarded=not is_open(method.upper(), path),
                        limited=is_limited(method.upper(), path),
                        names_something="{" in path,
                        parameters=parameters,
                    )
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi


def _complete(
    operation: dict[str, Any], *, guarded: bool, limited: bool, names_something: bool, parameters: Mapping[str, Any]
) -> None:
    # FastAPI makes a summary of the function's name; the first sentence of its docstring says more.
    operation["summary"] = operation["description"].replace("\n", " ").split(". ")[0].rstrip(".")
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in parameters:  # others have a schema with an example
            parameter["example"] = parameters[parameter["name"]]
    has_body = "requestBody" in operation
    for status, occurs in (
        (400, has_body or bool(operation.get("parameters"))),
        (401, guarded),
        (403, True),
        (404, names_something),
        (413, has_body),
        (415, has_body),
        (429, limited),
        (503, True),
    ):
        if occurs:
            responses.setdefault(str(status), {"description": _TEXTS[status]})
    for status, response in responses.items():
        if status.startswith(("4", "5")) and "content" not in response:
            response["content"] = {"application/json": _error_content(int(status[0] + status[1:].replace("X", "0")))}
    if guarded:
        operation["security"] = [{"key": []}]


def _error_content(status: int) -> dict[str, Any]:
    code = _OWN_CODES.get(status, "error")
    examples: dict[str, Any] = {code: {"value": {"error": _TEXTS.get(status, "What went wrong"), "code": code}}}
    if status == 400:
        told: dict[str, Any] = {"formErrors": [], "fieldErrors": {"prompt": ["Required"]}}
        examples = {"invalid": {"value": {"error": told, "code": "invalid"}}}
    return {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}, "examples": examples}
