"""Requests of the client: what is sent, and what each kind of answer becomes."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from bloom.base.errors import ConfigurationError
from bloom.client import RuntimeClient, RuntimeRefused, RuntimeUnreachable

KEY = "k3y-of-the-runtime"
Answer = Callable[[httpx.Request], httpx.Response]


def ask(answer: Answer, *, url: str = "http://runtime.example", method: str = "GET", **options: Any) -> Any:
    """What one request comes to, over a transport that answers with `answer`."""

    async def run() -> Any:
        async with RuntimeClient(url, KEY, transport=httpx.MockTransport(answer)) as client:
            return await client.request(method, "/llm-tasks", **options)

    return asyncio.run(run())


def refused(status: int, body: Any, **headers: str) -> RuntimeRefused:
    """The error that an answer of `status` with `body` (JSON, or bytes as they are) becomes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(RuntimeRefused) as caught:
        ask(
            lambda _: httpx.Response(
                status, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()}
            )
        )
    assert caught.value.status == status
    return caught.value


def not_reached(status: int, **answer: Any) -> RuntimeUnreachable:
    with pytest.raises(RuntimeUnreachable) as caught:
        ask(lambda _: httpx.Response(status, **answer))
    assert KEY not in str(caught.value)
    return caught.value


def test_a_request_goes_below_the_api_with_key_body_and_parameters() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json={"id": "t1"})

    body = {"prompt": "Жар-птица"}
    result = ask(
        answer, url="https://h.example/sub/", method="POST", json=body, params={"limit": 5}, headers={"X-A": "b"}
    )
    assert result == {"id": "t1"}
    (request,) = seen
    assert str(request.url) == "https://h.example/sub/api/runtime/llm-tasks?limit=5"
    assert request.headers["x-runtime-api-key"] == KEY
    assert request.headers["x-a"] == "b"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("bloom/")
    assert json.loads(request.content) == body


def test_text_that_is_no_unicode_is_left_to_the_runtime_to_refuse() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"got": request.content.decode("ascii")})

    assert "\\udc80" in ask(answer, method="POST", json={"prompt": "\udc80"})["got"]


def test_raw_bytes_and_streams_are_sent_as_they_are() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"size": len(request.content)})

    assert ask(answer, method="PUT", content=b"12345")["size"] == 5


def test_an_empty_answer_is_none() -> None:
    assert ask(lambda _: httpx.Response(204)) is None


def test_an_error_of_the_contract_keeps_its_code_and_detail() -> None:
    error = refused(409, {"error": "The lease is no longer yours", "code": "lease_lost", "next_seq": 4, "self": 1})
    assert (error.code, error.message) == ("lease_lost", "The lease is no longer yours")
    assert error.detail["next_seq"] == 4


def test_a_validation_error_names_its_fields() -> None:
    form = {"formErrors": ["odd"], "fieldErrors": {"prompt": ["must not be empty"], "policy": ["bad", "worse"]}}
    error = refused(400, {"error": form, "code": "invalid"})
    assert error.fields == {"prompt": ["must not be empty"], "policy": ["bad", "worse"]}
    assert error.message == "odd; prompt: must not be empty; policy: bad; policy: worse"


def test_too_many_requests_need_no_code_and_say_when_to_come_again() -> None:
    error = refused(429, {"error": "Too many requests, please try again later"}, Retry_After="17")
    assert (error.code, error.retry_after_sec) == ("rate_limited", 17)
    past = refused(503, {"error": "x", "code": "unavailable"}, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")
    assert past.retry_after_sec == 0
    assert refused(503, {"error": "x", "code": "unavailable"}, Retry_After="soon").retry_after_sec is None


def test_an_internal_error_names_the_request_for_the_log() -> None:
    error = refused(500, {"error": "Internal server error", "code": "internal"}, X_Request_Id="r-1")
    assert error.message == "Internal server error (request r-1)"


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateway_page_is_a_refusal_of_a_proxy(status: int) -> None:
    assert refused(status, b"<html>nginx</html>").code == "proxy"


@pytest.mark.parametrize(("status", "code"), [(401, "unauthorized"), (403, "forbidden"), (413, "too_large")])
def test_a_refusal_in_a_foreign_form_keeps_its_meaning(status: int, code: str) -> None:
    assert refused(status, b"<html>no</html>").code == code


@pytest.mark.parametrize(
    "body", [b"<html>Not Found</html>", b'{"detail":"Not Found"}', b'{"error":"Not found"}', b"[]", b'{"error":null}']
)
def test_a_404_that_is_not_the_runtimes_means_another_server(body: bytes) -> None:
    assert not_reached(404, content=body).code == "not_a_runtime"


def test_a_page_where_json_was_due_means_another_server() -> None:
    assert not_reached(200, html="<h1>It works!</h1>").code == "not_a_runtime"
    assert not_reached(200, content=b"{", headers={"content-type": "application/json"}).code == "not_a_runtime"


def test_a_redirect_is_not_followed_with_the_key() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(301, headers={"location": "https://u:secret@other.example/x?token=1"})

    with pytest.raises(RuntimeUnreachable, match=r"https://other\.example,") as caught:
        ask(answer)
    assert caught.value.code == "redirected"
    assert "secret" not in caught.value.message and "token" not in caught.value.message
    assert len(seen) == 1


@pytest.mark.parametrize(
    "kind", [httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.LocalProtocolError]
)
def test_a_broken_connection_names_the_url_and_never_the_key(kind: type[httpx.TransportError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise kind(f"Illegal header value {KEY!r}", request=request)

    with pytest.raises(RuntimeUnreachable, match=r"http://runtime\.example") as caught:
        ask(answer)
    assert KEY not in str(caught.value)
    assert caught.value.maybe_received is (kind is not httpx.ConnectError)


def test_a_key_that_no_header_can_carry_is_a_wrong_setting() -> None:
    for key in ("ключ", "a\nb"):
        with pytest.raises(ConfigurationError, match="BLOOM_API_KEY"):
            RuntimeClient("http://h.example", key)


def test_a_proxy_setting_that_cannot_be_used_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "gopher://me:s3cret@proxy.example")
    with pytest.raises(ConfigurationError, match="HTTP_PROXY") as caught:
        RuntimeClient("http://h.example")
    assert "s3cret" not in str(caught.value)
