"""One HTTP client of the runtime: requests, the event stream, downloads, and errors a person can act on."""

import json as jsonlib
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from bloom import __version__
from bloom.base.errors import ConfigurationError
from bloom.base.protocol import HEADER as PROTOCOL_HEADER
from bloom.base.protocol import PROTOCOL
from bloom.client.address import check_url, is_loopback
from bloom.client.answers import explain_failure, read_refusal
from bloom.client.errors import RuntimeUnreachable
from bloom.client.sse import EventParser, EventTooLong, SseMessage

API_PREFIX = "/api/runtime"
CONNECT_TIMEOUT_SEC = 10.0
MAX_ERROR_BYTES = 64 * 1024

Params = Mapping[str, str | int]


class RuntimeClient:
    """Talks to one runtime. An async context manager; the connections are closed with it.

    Every method raises RuntimeUnreachable when no runtime answers and RuntimeRefused when it answers with an error. No
    redirect is followed: the key goes to the address that was given and to no other. Proxies of the environment are
    used, except for this machine itself. Times are seconds; `timeout_sec` bounds each wait for the network, not their
    sum.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout_sec: float = 30,
        user_agent: str = f"bloom/{__version__}",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`transport` replaces the network. Raises ConfigurationError for an unusable URL, key or proxy setting."""
        self.url = check_url(url, "the address of the runtime")
        self._timeout_sec = timeout_sec
        headers = {"User-Agent": user_agent, "Accept": "application/json", PROTOCOL_HEADER: str(PROTOCOL)}
        if api_key is not None:
            api_key = api_key.strip()
            if not (api_key.isascii() and api_key.isprintable()):
                raise ConfigurationError("BLOOM_API_KEY must consist of printable ASCII characters")
            headers["X-Runtime-API-Key"] = api_key
        # A proxy of the environment cannot reach this machine's loopback, and must not see its key.
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        direct = {f"all://{host}": None} if is_loopback(self.url) else None
        try:
            self._http = httpx.AsyncClient(headers=headers, follow_redirects=False, transport=transport, mounts=direct)
            self._base = httpx.URL(self.url + API_PREFIX)
        except httpx.InvalidURL:
            raise ConfigurationError("the address of the runtime must be like http://host:5000") from None
        except (ImportError, ValueError):  # the text may hold a proxy's password
            raise ConfigurationError(
                "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY holds an address that cannot be used"
            ) from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | AsyncIterable[bytes] | None = None,
        params: Params | None = None,
        timeout_sec: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """The decoded JSON answer of `method` on `path` (below /api/runtime, such as "/llm-tasks"); None when empty.

        The body is `json`, or the raw bytes of `content`. Ids go into `path` by `path_segment`.
        """
        answer, _ = await self.request_with_headers(
            method, path, json=json, content=content, params=params, timeout_sec=timeout_sec, headers=headers
        )
        return answer

    async def request_with_headers(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | AsyncIterable[bytes] | None = None,
        params: Params | None = None,
        timeout_sec: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """As `request`, with the headers of the answer (their names in any case)."""
        sent = dict(headers or {})
        if json is not None:
            content = _encode(json)
            sent["Content-Type"] = "application/json"
        wait = self._timeout_sec if timeout_sec is None else timeout_sec
        async with self._open(method, path, content=content, params=params, headers=sent, wait_sec=wait) as response:
            if response.status_code == 204 or response.headers.get("content-length") == "0":
                return None, response.headers
            self._require_type(response, "application/json")
            body = await response.aread()
        try:
            return jsonlib.loads(body), response.headers
        except ValueError:
            raise self._not_a_runtime() from None

    async def stream(
        self, path: str, *, last_event_id: str | None = None, read_timeout_sec: float = 45
    ) -> AsyncGenerator[SseMessage]:
        """The events of one connection to `path`, until the runtime closes it.

        A cut, or `read_timeout_sec` without a byte, raises RuntimeUnreachable: open it again with the last `id` as
        `last_event_id`. Wrap it in `contextlib.aclosing` where the loop may be left early.
        """
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-store"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        parser = EventParser()
        async with self._open("GET", path, headers=headers, wait_sec=read_timeout_sec) as response:
            self._require_type(response, "text/event-stream")
            async for chunk in response.aiter_bytes():
                try:
                    for event in parser.feed(chunk):
                        yield SseMessage(event.id, event.event, jsonlib.loads(event.data))
                except (ValueError, EventTooLong):
                    raise self._not_a_runtime() from None

    async def download(self, path: str, *, timeout_sec: float | None = None) -> AsyncGenerator[bytes]:
        """The bytes of `path` as they come. A body cut short raises RuntimeUnreachable."""
        wait = self._timeout_sec if timeout_sec is None else timeout_sec
        async with self._open("GET", path, headers={"Accept": "*/*"}, wait_sec=wait) as response:
            async for chunk in response.aiter_bytes():
                yield chunk

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        wait_sec: float,
        content: bytes | AsyncIterable[bytes] | None = None,
        params: Params | None = None,
    ) -> AsyncGenerator[httpx.Response]:
        """A response with status 2xx whose body was not read yet; all else is raised as one of our two errors."""
        timeout = httpx.Timeout(wait_sec, connect=min(wait_sec, CONNECT_TIMEOUT_SEC))
        try:
            url = self._base.copy_with(raw_path=self._base.raw_path.rstrip(b"/") + path.encode("ascii"))
            request = self._http.build_request(
                method, url, content=content, params=params, headers=headers, timeout=timeout
            )
            try:
                response = await self._http.send(request, stream=True)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # A kept connection may be closed just as it is used again (RFC 9112, section 9.3.1): a GET may try anew.
                if method != "GET":
                    raise
                response = await self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    body = await _read_some(response)
                    raise read_refusal(self.url, response.status_code, response.headers, body)
                yield response
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise RuntimeUnreachable(
                explain_failure(self.url, error, wait_sec),
                maybe_received=not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout),
            ) from None

    def _require_type(self, response: httpx.Response, media_type: str) -> None:
        if response.headers.get("content-type", "").partition(";")[0].strip().lower() != media_type:
            raise self._not_a_runtime()

    def _not_a_runtime(self) -> RuntimeUnreachable:
        return RuntimeUnreachable(
            f"what answers at {self.url} is not a BLOOM runtime; check --runtime or BLOOM_URL", code="not_a_runtime"
        )


def _encode(body: Any) -> bytes:
    text = jsonlib.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate: let the runtime refuse it by name
        return jsonlib.dumps(body, separators=(",", ":"), allow_nan=False).encode()


async def _read_some(response: httpx.Response) -> bytes:
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ERROR_BYTES:
            break
    return body
