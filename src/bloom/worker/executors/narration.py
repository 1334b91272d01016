"""A run's events on their way to the daemon: small pieces of text are joined, large ones are cut to size."""

import json
import time
from typing import Any, Literal

from bloom.worker.executors.interface import Emit, RunEvent

TEXT_CHARS = 4 * 1024
"""Text is emitted once so much of it has gathered,"""

TEXT_DELAY_SEC = 0.1
"""or once its first character is so old."""

LARGEST_TEXT_CHARS = 16 * 1024
CUT_CHARS = 16 * 1024
"""To how much a tool's input or result is cut."""


class Narration:
    """Emits the events of one run in order. Not for several tasks at once."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._kind: Literal["text", "thinking"] = "text"
        self._pieces: list[str] = []
        self._chars = 0
        self._oldest = 0.0

    async def text(self, text: str, kind: Literal["text", "thinking"] = "text") -> None:
        """Emit `text`, sooner or later."""
        if not text:
            return
        if kind != self._kind:
            await self.flush()
            self._kind = kind
        if not self._pieces:
            self._oldest = time.monotonic()
        self._pieces.append(text)
        self._chars += len(text)
        if self._chars >= TEXT_CHARS or self.due_in() == 0:
            await self.flush()

    async def event(self, event: RunEvent) -> None:
        """Emit `event` now, behind the text that came before it."""
        await self.flush()
        await self._emit(event)

    def due_in(self) -> float | None:
        """Seconds until waiting text should be flushed; None when none waits."""
        return max(0.0, self._oldest + TEXT_DELAY_SEC - time.monotonic()) if self._pieces else None

    async def flush(self) -> None:
        """Emit the text that waits."""
        text = "".join(self._pieces)
        self._pieces.clear()
        self._chars = 0
        for start in range(0, len(text), LARGEST_TEXT_CHARS):
            await self._emit(RunEvent(self._kind, {"text": text[start : start + LARGEST_TEXT_CHARS]}))


def cut_text(text: str) -> dict[str, Any]:
    """`{"content": text}`, cut to 16 KiB and then marked as such."""
    if len(text) <= CUT_CHARS:
        return {"content": text}
    return {"content": text[:CUT_CHARS], "truncated": True}


def cut_input(value: Any) -> Any:
    """The input of a tool; when it is larger than 16 KiB, the beginning of its JSON instead."""
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= CUT_CHARS else {"truncated": True, "beginning": text[:CUT_CHARS]}
