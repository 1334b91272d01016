"""What a caller reads when something is wrong."""

import logging
from typing import Any

import pytest
from web_serving import Serving

from bloom.base.errors import (
    BloomError,
    ConfigurationError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
    Upstream,
)

pytestmark = pytest.mark.anyio


class OfASlice(Conflict):
    code = "lease_lost"


async def answer_to(error: Exception) -> tuple[int, Any, dict[str, str]]:
    serving = Serving()
    serving.app.state.errors.append(error)
    async with serving.client() as client:
        response = await client.get("/api/runtime/fails/0")
    return response.status_code, response.json(), dict(response.headers)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInput("m"), 400, "invalid"),
        (Unauthorized("m"), 401, "unauthorized"),
        (Forbidden("m"), 403, "forbidden"),
        (NotFound("m"), 404, "not_found"),
        (Conflict("m"), 409, "conflict"),
        (Conflict("m", code="not_due"), 409, "not_due"),
        (OfASlice("m"), 409, "lease_lost"),
        (TooLarge("m"), 413, "too_large"),
        (Unavailable("m"), 503, "unavailable"),
        (Upstream("m"), 502, "upstream"),
    ],
)
async def test_each_error_of_the_tree_has_its_status_and_code(error: BloomError, status: int, code: str) -> None:
    answered, body, _ = await answer_to(error)
    assert (answered, body) == (status, {"error": "m", "code": code})


async def test_detail_stands_beside_message_and_code() -> None:
    _, body, _ = await answer_to(Conflict("m", lease_id="l1"))
    assert body == {"error": "m", "code": "conflict", "lease_id": "l1"}


async def test_unavailable_says_when_to_try_again() -> None:
    _, _, headers = await answer_to(Unavailable("m", retry_after_sec=7))
    assert headers["retry-after"] == "7"


async def test_invalid_fields_are_told_field_by_field() -> None:
    status, body, _ = await answer_to(InvalidInput("m", fields={"cursor": ["Must be one of ours"]}))
    assert status == 400
    assert body == {"error": {"formErrors": [], "fieldErrors": {"cursor": ["Must be one of ours"]}}, "code": "invalid"}


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("password=hunter2 in /srv/secret"),
        ConfigurationError("MINIO_ENDPOINT in /srv/secret"),
        BloomError("/srv/secret"),
    ],
)
async def test_the_unexpected_is_logged_with_the_request_id_and_told_to_nobody(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status, body, headers = await answer_to(error)
    assert (status, body) == (500, {"error": "Internal server error", "code": "internal"})
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-request-id"]
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]


async def test_unknown_paths_and_methods_are_told_in_the_same_form() -> None:
    async with Serving().client() as client:
        unknown = await client.get("/api/runtime/nowhere")
        method = await client.delete("/api/runtime/whoami")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert (method.status_code, method.json()["code"]) == (405, "method_not_allowed")
    assert method.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({}, "name", "Required"),
        ({"name": ""}, "name", "Must have at least 1 character"),
        ({"name": "x" * 9}, "name", "Must have at most 8 characters"),
        ({"name": 7}, "name", "Must be text"),
        ({"name": "a\0b"}, "name", "Must not contain NUL characters or lone surrogates"),
        ({"name": "x", "policy": {"timeout_sec": 0}}, "policy.timeout_sec", "Must be at least 1"),
        ({"name": "x", "policy": {"timeout_sec": 10**40}}, "policy.timeout_sec", "Must be at most 3600"),
        ({"name": "x", "policy": {"timeout_sec": 1.5}}, "policy.timeout_sec", "Must be a whole number"),
        ({"name": "x", "policy": {"timeout_sec": "soon"}}, "policy.timeout_sec", "Must be a whole number"),
        ({"name": "x", "policy": 3}, "policy", "Must be an object"),
        ({"name": "x", "hints": [True]}, "hints.0", "Must be text"),
        ({"name": "x", "hints": "h"}, "hints", "Must be a list"),
    ],
)
async def test_a_bad_field_is_named_with_what_would_be_right(body: Any, field: str, message: str) -> None:
    async with Serving().client() as client:
        response = await client.post("/api/runtime/things", json=body)
    assert response.status_code == 400
    assert response.json() == {
        "error": {"formErrors": [], "fieldErrors": {field: [message]}},
        "code": "invalid",
    }


async def test_a_bad_query_is_named_too_and_the_input_is_not_repeated() -> None:
    async with Serving().client() as client:
        response = await client.get("/api/runtime/things?limit=<script>")
    assert response.json()["error"]["fieldErrors"] == {"limit": ["Must be a whole number"]}
    assert "script" not in response.text


async def test_a_body_of_another_kind_is_a_form_error() -> None:
    async with Serving().client() as client:
        response = await client.post("/api/runtime/things", json=[1])
    assert response.json() == {"error": {"formErrors": ["Must be an object"], "fieldErrors": {}}, "code": "invalid"}


async def test_a_refusal_that_comes_again_and_again_is_told_in_the_log_once_and_then_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("bloom.web.errors.time.monotonic", lambda: now)

    def told() -> list[int | None]:
        found = [getattr(record, "left_out", None) for record in caplog.records if record.levelno == logging.WARNING]
        caplog.clear()
        return found

    for _ in range(5):
        status, _, _ = await answer_to(Unavailable("m", code="full_of_it"))
        assert status == 503
    await answer_to(Unavailable("m", code="of_another_kind"))
    assert told() == [None, None]
    now += 1
    await answer_to(Unavailable("m", code="full_of_it"))
    await answer_to(Unavailable("m", code="full_of_it"))
    assert told() == [4]
