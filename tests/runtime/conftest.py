"""What the tests of the runtime's core share."""

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Fronts, StartReplica
from tests.runtime.racing import Race


@pytest.fixture(params=[1, 2], ids=["one replica", "two replicas"])
def fronts(request: pytest.FixtureRequest, start_replica: StartReplica) -> Fronts:
    """One runtime, or two on the same database, among which calls are dealt out."""
    return Fronts([start_replica() for _ in range(request.param)])


@pytest.fixture
def race(start_replica: StartReplica, database: FreshDatabase) -> Race:
    """Two replicas at odds about a task that a worker holds."""
    race = Race(start_replica(), start_replica(), database)
    race.first.register(slots=4)
    race.hold_another()
    return race
