"""Following one task until it is final, over any number of connections."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, cast

from bloom.base.errors import BloomError
from bloom.cli.session import parse
from bloom.client import RuntimeClient, RuntimeRefused, RuntimeUnreachable, path_segment
from bloom.tasks.schemas import EventOut, LLMResult, LLMTask

Pause = Callable[[float], Awaitable[None]]

FIRST_PAUSE_SEC = 0.5
MAX_PAUSE_SEC = 30.0
_TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Ending:
    """A final task and its last result. `document` is the runtime's own `{task, result}`."""

    task: LLMTask
    result: LLMResult | None
    document: dict[str, Any]


class Watcher(Protocol):
    """Who is told what happens. Calls come in the order of the task's history, each event once."""

    async def task_changed(self, task: LLMTask) -> None:
        """The task as it is now; on a new connection perhaps the same again."""
        ...

    def happened(self, event: EventOut) -> None:
        """One more event of the run."""
        ...

    def connection_lost(self, reason: str, pause_sec: float) -> None:
        """The stream is away for longer than a moment; the next try is in `pause_sec`."""
        ...


async def follow(client: RuntimeClient, task_id: str, watcher: Watcher, *, pause: Pause = asyncio.sleep) -> Ending:
    """Tell `watcher` all that happens to the task, from its beginning, and return how it ended.

    A cut stream is opened again behind its last event, for as long as it takes. Raises RuntimeRefused when the task or
    the key is refused.
    """
    path = f"/llm-tasks/{path_segment(task_id)}/stream"
    last_id: str | None = None
    seen = 0
    cuts = 0
    while True:
        asked_pause = 0.0
        try:
            async with aclosing(client.stream(path, last_event_id=last_id)) as messages:
                async for message in messages:
                    cuts = 0
                    last_id = message.id if message.id is not None else last_id
                    match message.event:
                        case "run":
                            event = parse(EventOut, message.data)
                            if event.id > seen:
                                seen = event.id
                                watcher.happened(event)
                        case "task":
                            await watcher.task_changed(parse(LLMTask, message.data))
                        case "end":
                            return _ending(message.data)
                        case _:  # a newer runtime may tell more
                            pass
            reason = "the runtime closed the stream"
        except RuntimeUnreachable as error:
            reason = error.message
        except RuntimeRefused as error:
            if error.status not in _TEMPORARY:
                raise
            reason = error.message
            asked_pause = error.retry_after_sec or 0.0
        cuts += 1
        pause_sec = max(backoff(cuts), asked_pause)
        if cuts > 1:  # a proxy may close a quiet stream now and then: that is nobody's worry
            watcher.connection_lost(reason, pause_sec)
        await pause(pause_sec)


def backoff(failures: int) -> float:
    """Seconds to wait after `failures` in a row: doubled each time up to MAX_PAUSE_SEC, of it half to all by chance."""
    whole = min(FIRST_PAUSE_SEC * 2 ** min(failures - 1, 10), MAX_PAUSE_SEC)
    return whole * (0.5 + secrets.randbelow(1000) / 2000)


def _ending(data: Any) -> Ending:
    if not isinstance(data, dict):
        raise BloomError("the runtime's answer is not understood", code="bad_answer")
    document = cast("dict[str, Any]", data)
    result = document.get("result")
    return Ending(
        task=parse(LLMTask, document.get("task")),
        result=None if result is None else parse(LLMResult, result),
        document=document,
    )
