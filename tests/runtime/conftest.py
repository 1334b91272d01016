"""What the tests of the runtime's core share."""

import pytest
from tests.real_runtime import Fronts, StartReplica


@pytest.fixture(params=[1, 2], ids=["one replica", "two replicas"])
def fronts(request: pytest.FixtureRequest, start_replica: StartReplica) -> Fronts:
    """One runtime, or two on the same database, among which calls are dealt out."""
    return Fronts([start_replica() for _ in range(request.param)])
