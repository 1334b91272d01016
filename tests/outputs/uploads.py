"""Calls of tests that upload outputs."""

import hashlib
import random
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from tests.real_runtime import API, Api, refused, told

Lease = dict[str, Any]


def large(size: int) -> bytes:
    """A text of `size` bytes that does not repeat."""
    return random.Random(size).randbytes(size // 2 + 1).hex().encode()[:size]  # noqa: S311 - no secret


def put(api: Api, lease: Lease, offset: int, content: bytes | Iterable[bytes] = b"", **more: str) -> httpx.Response:
    """Append `content` to the output of the lease."""
    return api.http.put(
        f"/llm-tasks/{lease['task_id']}/output",
        params={"lease_id": lease["id"], "offset": offset, **more},
        content=content,
        headers={"Content-Type": "application/octet-stream"},
    )


def received(api: Api, lease: Lease) -> int:
    """How much of the output the runtime says it has."""
    return told(api.get(f"/llm-tasks/{lease['task_id']}/output", lease_id=lease["id"]))["received"]


def put_and_cut(api: Api, lease: Lease, offset: int, content: bytes, announced: int) -> None:
    """Send `content` of a body that was announced to be longer, then cut the connection."""
    address = urlsplit(api.url)
    path = f"{API}/llm-tasks/{lease['task_id']}/output?lease_id={quote(lease['id'])}&offset={offset}"
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {announced}\r\n"
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(head.encode() + content)


def go_on(api: Api, lease: Lease, output: bytes) -> str:
    """Upload what is missing of `output`, as a client does after a cut; its `output_ref`."""
    offset = received(api, lease)
    while True:
        answer = put(api, lease, offset, output[offset:])
        if answer.status_code == 200:
            assert answer.json()["received"] == len(output)
            return answer.json()["output_ref"]
        # What was cut may have been on its way into the database still.
        assert refused(answer, 409) == "offset_mismatch"
        assert answer.json()["received"] > offset
        offset = answer.json()["received"]


def named(output: bytes, output_ref: str) -> dict[str, Any]:
    """The fields of a completion that name an uploaded output."""
    return {
        "output": None,
        "output_ref": output_ref,
        "output_size": len(output),
        "output_sha256": hashlib.sha256(output).hexdigest(),
    }


def downloaded(api: Api, artifact_id: str) -> bytes:
    """The content of an artifact."""
    answer = api.get(f"/artifacts/{artifact_id}/content")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-length"] == str(len(answer.content))
    return answer.content
