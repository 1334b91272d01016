"""Bodies over the limit are refused before they are in memory, and the client gets to read why."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from web_serving import KEY, Serving

pytestmark = pytest.mark.anyio

LIMIT = 2048


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 512


async def test_an_announced_body_over_the_limit_is_refused() -> None:
    async with Serving(BLOOM_MAX_BODY_BYTES=LIMIT).client() as client:
        response = await client.post("/api/runtime/things", content=b"x" * (LIMIT + 1))
    assert response.status_code == 413
    assert response.json() == {
        "error": "The request body is over the limit of 2048 bytes",
        "code": "too_large",
        "limit_bytes": 2048,
    }


@pytest.mark.parametrize("path", ["/api/runtime/things", "/api/runtime/uploads/counted"])
async def test_a_streamed_body_is_counted(path: str) -> None:
    async with Serving(BLOOM_MAX_BODY_BYTES=LIMIT).client() as client:
        over = await client.request("PUT" if "uploads" in path else "POST", path, content=chunks(5))
    assert (over.status_code, over.json()["code"]) == (413, "too_large")


async def test_a_body_of_exactly_the_limit_is_read() -> None:
    async with Serving(BLOOM_MAX_BODY_BYTES=LIMIT).client() as client:
        streamed = await client.put("/api/runtime/uploads/x", content=chunks(4))
        announced = await client.put("/api/runtime/uploads/x", content=b"x" * LIMIT)
    assert (streamed.json(), announced.json()) == ({"bytes": LIMIT}, {"bytes": LIMIT})


@pytest.mark.parametrize("framing", ["announced", "chunked"])
async def test_no_more_large_bodies_are_held_at_a_time_than_memory_is_meant_for(framing: str) -> None:
    large = 128 * 1024
    async with Serving(BLOOM_MAX_BODY_BYTES=large).client() as client:
        arrived, go_on = asyncio.Semaphore(0), asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"x" * (large - 1)
            arrived.release()
            await go_on.wait()
            yield b"x"

        headers = {"Content-Length": str(large)} if framing == "announced" else {}
        held = [
            asyncio.create_task(client.put("/api/runtime/uploads/x", content=slow(), headers=headers)) for _ in range(4)
        ]
        for _ in held:
            await arrived.acquire()
        refused = await client.put("/api/runtime/uploads/x", content=b"x" * large)
        small = await client.put("/api/runtime/uploads/x", content=b"x" * 1024)
        go_on.set()
        answers = await asyncio.gather(*held)
        after = await client.put("/api/runtime/uploads/x", content=b"x" * large)
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
    assert [answer.status_code for answer in (small, *answers, after)] == [200] * 6


async def test_an_exempt_path_takes_more() -> None:
    async with Serving(BLOOM_MAX_BODY_BYTES=LIMIT).client() as client:
        response = await client.put("/api/runtime/uploads/free", content=chunks(8))
    assert response.json() == {"bytes": 4096}


async def test_the_body_of_a_refused_request_is_not_looked_at() -> None:
    async with Serving(BLOOM_MAX_BODY_BYTES=LIMIT).client(key=None) as client:
        response = await client.post("/api/runtime/things", content=b"x" * (LIMIT + 1))
    assert response.status_code == 401


@pytest.mark.parametrize("framing", ["Content-Length: 50000000", "Transfer-Encoding: chunked"])
async def test_a_client_that_is_still_sending_reads_the_answer_and_may_go_on(framing: str) -> None:
    async with Serving(BLOOM_MAX_BODY_BYTES=LIMIT).listening() as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST /api/runtime/things HTTP/1.1\r\nHost: localhost\r\nX-Runtime-API-Key: {KEY}\r\n{framing}\r\n\r\n"
        chunk = b"x" * 1_000_000
        if "chunked" in framing:
            chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
        writer.write(head.encode() + chunk)
        async with asyncio.timeout(5):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 413 ")
            # The connection is not reset while the client sends the rest.
            for _ in range(20):
                writer.write(chunk)
                await writer.drain()
            body = await reader.readuntil(b"}")
        assert b'"too_large"' in body
        writer.close()
        await writer.wait_closed()
