"""What the tests of large outputs share."""

from typing import Any

import pytest
from tests.real_runtime import Replica

Held = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture
def held(runtime: Replica) -> Held:
    """A task that the worker holds, and its lease."""
    runtime.register()
    return runtime.leased()
