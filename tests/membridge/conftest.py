"""What the tests of the control plane share."""

from collections.abc import Generator
from contextlib import ExitStack
from typing import Protocol

import pytest
from tests.real_membridge import KEY, Membridge
from tests.real_postgres import FreshDatabase


class StartPlane(Protocol):
    """Starts one more control plane on the test's database."""

    def __call__(self, *, maintenance: bool = False, key: str | None = KEY, **environment: str) -> Membridge: ...


@pytest.fixture
def start_plane(database: FreshDatabase) -> Generator[StartPlane]:
    """Starts one more control plane: `start_plane(maintenance=True, MEMBRIDGE_AGENT_KEY="key")`."""
    with ExitStack() as stack:

        def start(*, maintenance: bool = False, key: str | None = KEY, **environment: str) -> Membridge:
            return stack.enter_context(Membridge(database.url, maintenance=maintenance, key=key, **environment))

        yield start


@pytest.fixture
def plane(start_plane: StartPlane) -> Membridge:
    """One control plane, where nothing happens by the clock."""
    return start_plane()
