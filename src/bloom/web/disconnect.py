"""The ends of a request that waits: its client leaves, the server stops, or the key it was made with is revoked."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope

from bloom.web.auth import until_withdrawn

T = TypeVar("T")

_SCOPE_KEY = "bloom.stopping"


class Stopping:
    """Told once, by whoever runs the server, that it stops: long polls answer and streams end at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def begin(self) -> None:
        """The server stops now. Call it on the event loop, before connections are waited for."""
        self._event.set()

    @property
    def begun(self) -> bool:
        """Whether the server is stopping."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Return when the server stops."""
        await self._event.wait()

    def put_into(self, scope: Scope) -> None:
        """Let what serves `scope` find this by `stopping_of`."""
        scope[_SCOPE_KEY] = self


def stopping_of(scope: Scope) -> Stopping:
    """The `Stopping` of the server that serves `scope`; one that never begins where none was installed."""
    found = scope.get(_SCOPE_KEY)
    return found if isinstance(found, Stopping) else Stopping()


async def until_disconnected(receive: Receive) -> None:
    """Return when the client has left. Takes what is still unread of the body: read that first."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def first_to_end(*waits: Coroutine[Any, Any, None]) -> None:
    """Return when the first of `waits` does, and end the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(*tasks)


async def until_over(scope: Scope, receive: Receive) -> None:
    """Return when the client has left, the server stops or the caller's key is valid no longer, whichever is first."""
    await first_to_end(until_disconnected(receive), stopping_of(scope).wait(), until_withdrawn(scope))


async def until_gone(request: Request) -> None:
    """`until_over` of a request whose body was read."""
    await until_over(request.scope, request.receive)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The outcome of `work`, or None when the client left, the server began to stop or the caller's key was revoked
    before there was one.

    `work` is then cancelled, and has to bear that at each of its awaits.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await end_tasks(working, gone)


async def end_tasks(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel `tasks` and wait until each has ended; how they ended does not matter."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
