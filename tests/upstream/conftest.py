from collections.abc import Generator

import pytest
from membridge_stub import Stub
from tests.real_runtime import Replica, StartReplica


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def membridge() -> Generator[Stub]:
    """A good Membridge that asks for no key."""
    with Stub() as stub:
        yield stub


@pytest.fixture
def connected(start_replica: StartReplica, membridge: Stub) -> Replica:
    """A runtime whose environment names that Membridge."""
    return start_replica(MEMBRIDGE_SERVER_URL=membridge.url)
