"""Reading Server-Sent Events in tests."""

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from tests.real_runtime import Api

from bloom.client.sse import EventParser


@dataclass(frozen=True)
class Heard:
    """One event of a stream."""

    id: str
    event: str
    data: Any


class Reader:
    """One connection to a stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self._events = self._read(answer)

    def take(self, count: int) -> list[Heard]:
        """The next `count` events."""
        return [next(self._events) for _ in range(count)]

    def until(self, found: Callable[[Heard], bool]) -> list[Heard]:
        """The events up to the first that `found` is true for."""
        taken: list[Heard] = []
        for heard in self._events:
            taken.append(heard)
            if found(heard):
                break
        return taken

    def _read(self, answer: httpx.Response) -> Generator[Heard]:
        parser = EventParser()
        for chunk in answer.iter_bytes():
            for event in parser.feed(chunk):
                yield Heard(event.id or "", event.event, json.loads(event.data))


@contextmanager
def reading(api: Api, path: str, after: str | None = None) -> Generator[Reader]:
    """A connection to the stream `path`, behind the event `after`; cut at the end."""
    headers = {} if after is None else {"Last-Event-ID": after}
    with api.http.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield Reader(answer)
