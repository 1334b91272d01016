"""Each request has an id and one line in the log."""

import logging

import pytest
from web_serving import Serving

from bloom.base.logging import request_id

pytestmark = pytest.mark.anyio


async def test_a_sane_id_of_the_caller_is_kept() -> None:
    async with Serving().client() as client:
        response = await client.get("/page", headers={"X-Request-Id": "abc-1.2_3"})
    assert response.headers["x-request-id"] == "abc-1.2_3"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\u00e9", "<b>"])
async def test_any_other_id_is_replaced(given: str) -> None:
    async with Serving().client() as client:
        response = await client.get("/page", headers={b"X-Request-Id": given.encode()})
    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 36


async def test_the_access_line_holds_method_path_status_and_time_but_no_query(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "bloom.access"):
        async with Serving().client() as client:
            await client.get("/api/runtime/no%0Awhere?token=secret")
    (line,) = [vars(record) for record in caplog.records if record.name == "bloom.access"]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/runtime/no%0Awhere", 404)
    assert line["ms"] >= 0
    assert "secret" not in str(line)


async def test_the_id_is_known_to_logs_during_the_request_only() -> None:
    serving = Serving()
    seen: list[str | None] = []

    async def look() -> None:
        seen.append(request_id.get())

    serving.app.add_api_route("/look", look)
    async with serving.client() as client:
        response = await client.get("/look")
    assert seen == [response.headers["x-request-id"]]
    assert request_id.get() is None
