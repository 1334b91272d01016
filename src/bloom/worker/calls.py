"""The worker's own calls of the wire. Each loop of the daemon has its own connections: none waits for another."""

import asyncio
import contextlib
import platform
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from bloom import __version__
from bloom.client import RuntimeClient, RuntimeRefused, RuntimeUnreachable, path_segment
from bloom.tasks.schemas import (
    AppendAnswer,
    Claim,
    ClaimAnswer,
    CompleteBatchAnswer,
    Extend,
    ExtendAnswer,
    HeldLease,
    UploadAnswer,
)
from bloom.worker.options import WorkerOptions
from bloom.worker.reachability import Reachability, is_passing
from bloom.workers.schemas import Board

_CLAIM_SEC = 10
_SETTLE_SEC = 2
_LEAVE_SEC = 0.5

M = TypeVar("M", bound=BaseModel)


class RegisteredWorker(BaseModel):
    """What the worker reads of its own entry at the runtime."""

    id: str


class WorkerCalls:
    """An async context manager around the connections. Every call raises RuntimeUnreachable or RuntimeRefused.

    A call that the runtime refuses because it does not know the worker registers it again and is sent once more.
    """

    def __init__(self, options: WorkerOptions, reachability: Reachability) -> None:
        """Raises ConfigurationError for an unusable address or key."""
        self._options = options
        self._reachability = reachability
        self._claiming, self._extending, self._appending, self._uploading, self._completing = (
            RuntimeClient(options.runtime, options.api_key) for _ in range(5)
        )
        self._worker_id: str | None = None
        self._registered = 0
        self._registering = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in (self._claiming, self._extending, self._appending, self._uploading, self._completing):
            with contextlib.suppress(RuntimeUnreachable):
                await client.aclose()

    @property
    def worker_id(self) -> str:
        """The id under which the runtime knows this worker; its name before it was registered."""
        return self._worker_id or self._options.name

    async def register(self) -> None:
        """Make or renew this worker's entry at the runtime."""
        capabilities: dict[str, object] = {
            "claude_cli": self._options.executor == "claude",
            "max_concurrency": self._options.slots,
        }
        if self._options.labels is not None:
            capabilities["labels"] = list(self._options.labels)
        body = {
            "name": self._options.name,
            "status": "online",
            "capabilities": capabilities,
            "agent_version": __version__,
            "os_info": f"{platform.system()} {platform.release()} {platform.machine()}",
            "install_method": "python",
        }
        answer = await self._ask(
            "register", self._completing, "/workers", body, RegisteredWorker, self._options.pace.request_sec
        )
        self._worker_id = answer.id
        self._registered += 1

    async def leave(self) -> None:
        """Tell the runtime that this worker is offline; raises nothing, for without it the runtime soon finds out."""
        body = {"name": self._options.name, "status": "offline"}
        with contextlib.suppress(RuntimeUnreachable, RuntimeRefused, TimeoutError):
            async with asyncio.timeout(_LEAVE_SEC):
                await self._completing.request("POST", "/workers", json=body, timeout_sec=_LEAVE_SEC)

    async def claim(self, claim: Claim) -> ClaimAnswer:
        """Ask for tasks; waits at the runtime for as long as `claim` says."""
        timeout_sec = claim.wait_sec + _CLAIM_SEC if claim.wait_sec else _SETTLE_SEC
        return await self._ask_as_worker("claim", self._claiming, "claim", claim.model_dump(), ClaimAnswer, timeout_sec)

    async def extend(self, lease_ids: Sequence[str], timeout_sec: float, board: Board) -> ExtendAnswer:
        """Prolong these leases, in one request. With none it only tells that this worker is there, and of its `board`."""
        leases = [HeldLease(lease_id=lease_id) for lease_id in lease_ids]
        body = Extend(leases=leases, board=board).model_dump()
        return await self._ask_as_worker("extend", self._extending, "extend", body, ExtendAnswer, timeout_sec)

    async def append(self, task_id: str, lease_id: str, events: Sequence[dict[str, Any]]) -> AppendAnswer:
        """Deliver events of one lease, in order."""
        path = f"/llm-tasks/{path_segment(task_id)}/events"
        body = {"lease_id": lease_id, "events": events}
        return await self._ask("events", self._appending, path, body, AppendAnswer, self._options.pace.request_sec)

    async def upload(
        self, task_id: str, lease_id: str, offset: int, content: AsyncIterator[bytes], length: int, anew: bool
    ) -> UploadAnswer:
        """Append `length` bytes to the output of a lease, or begin it anew. As long as bytes move it may take its time."""
        client, wait_sec = self._uploading, self._options.pace.request_sec
        request = client.request(
            "PUT",
            f"/llm-tasks/{path_segment(task_id)}/output",
            params={"lease_id": lease_id, "offset": offset, "restart": "true" if anew else "false"},
            content=content,
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(length)},
            timeout_sec=wait_sec,
        )
        return await self._answered("output", client, request, UploadAnswer, None)

    async def complete(self, worker_id: str, completions: Sequence[dict[str, Any]]) -> CompleteBatchAnswer:
        """Deliver reports of runs that were leased to `worker_id`."""
        body = {"completions": completions}
        path = f"/workers/{path_segment(worker_id)}/complete"
        answer = CompleteBatchAnswer
        if worker_id != self.worker_id:  # a run that another name of this worker has left
            return await self._ask("complete", self._completing, path, body, answer, self._options.pace.request_sec)
        return await self._ask_as_worker(
            "complete", self._completing, "complete", body, answer, self._options.pace.request_sec
        )

    async def _ask_as_worker(
        self, loop: str, client: RuntimeClient, call: str, body: dict[str, Any], answer: type[M], timeout_sec: float
    ) -> M:
        registered = self._registered
        path = f"/workers/{path_segment(self.worker_id)}/{call}"
        try:
            return await self._ask(loop, client, path, body, answer, timeout_sec)
        except RuntimeRefused as error:
            if error.status != 404:
                raise
        async with self._registering:
            if self._registered == registered:
                try:
                    await self.register()
                except RuntimeRefused as error:  # of the registration, not of the call
                    raise RuntimeUnreachable(error.message, code=error.code) from None
        return await self._ask(loop, client, path, body, answer, timeout_sec)

    async def _ask(
        self, loop: str, client: RuntimeClient, path: str, body: dict[str, Any], answer: type[M], timeout_sec: float
    ) -> M:
        """One request. `loop` is whose trouble it is when it fails."""
        request = client.request("POST", path, json=body, timeout_sec=timeout_sec)
        return await self._answered(loop, client, request, answer, timeout_sec)

    async def _answered(
        self,
        loop: str,
        client: RuntimeClient,
        request: Coroutine[Any, Any, Any],
        answer: type[M],
        timeout_sec: float | None,
    ) -> M:
        try:
            async with asyncio.timeout(timeout_sec):
                received = await request
            known = answer.model_validate(received)
        except (RuntimeUnreachable, RuntimeRefused) as error:
            if is_passing(error):
                self._reachability.failed(loop, error)
            else:
                self._reachability.answered(loop)
            raise
        except TimeoutError:
            error = RuntimeUnreachable(f"the runtime at {client.url} did not answer within {timeout_sec:g} s")
            self._reachability.failed(loop, error)
            raise error from None
        except ValidationError:
            error = RuntimeUnreachable(f"{client.url} answers in another form than ours", code="not_a_runtime")
            self._reachability.failed(loop, error)
            raise error from None
        self._reachability.answered(loop)
        return known
