"""Calls agents that have a URL, as the first Membridge did: POST {url}/sync/push, answered when it is done."""

from typing import Any, cast

import httpx

from bloom.base.errors import Upstream
from bloom.base.text import make_storable
from bloom.membridge.model import Job
from bloom.membridge.schemas import OUTPUT_CHARS, ReportJob

KEY_HEADER = "X-MEMBRIDGE-AGENT"
CONNECT_SEC = 5.0
MOST_BYTES = 5 * 1024 * 1024


class AgentCaller:
    """Calls agents with their own key, `MEMBRIDGE_AGENT_KEY`; the admin key is never sent to an agent."""

    def __init__(self, key: str | None) -> None:
        self._headers = {} if key is None else {KEY_HEADER: key}

    async def run(self, url: str, job: Job, *, timeout_sec: float) -> ReportJob:
        """Let the agent at `url` run `job`; what it reports at the end. Redirects are not followed.

        Raises Upstream, in words that hold neither the address nor the key.
        """
        timeout = httpx.Timeout(timeout_sec, connect=CONNECT_SEC)
        body = {"project": job.project, "canonical_id": job.canonical_id, "dryrun": job.dryrun, "job_id": job.id}
        try:
            async with (
                httpx.AsyncClient(timeout=timeout, headers=self._headers, follow_redirects=False) as client,
                client.stream("POST", f"{url}/sync/{job.action}", json=body) as answer,
            ):
                if not answer.is_success:
                    raise Upstream(f"The agent answered with status {answer.status_code}", code="agent_unreachable")
                said = bytearray()
                async for chunk in answer.aiter_bytes():
                    said += chunk
                    if len(said) > MOST_BYTES:
                        raise Upstream("The agent's answer is over 5 MiB", code="agent_unreachable")
                content: Any = httpx.Response(200, content=bytes(said)).json()
        except (httpx.HTTPError, httpx.InvalidURL):
            raise Upstream("The agent cannot be reached at its URL", code="agent_unreachable") from None
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise Upstream("The agent's answer is not a JSON object", code="agent_unreachable")
        return _report(cast("dict[str, Any]", content))


def _report(said: dict[str, Any]) -> ReportJob:
    def text(name: str) -> str | None:
        value = said.get(name)
        return make_storable(value)[0][-OUTPUT_CHARS:] if isinstance(value, str) else None

    code = said.get("returncode")
    return ReportJob(
        status="done" if said.get("ok") is True else "failed",
        detail=text("detail"),
        stdout=text("stdout"),
        stderr=text("stderr"),
        returncode=code if type(code) is int and abs(code) < 2**31 else None,
    )
