import pytest
from key_holders import ADMIN_KEY
from tests.real_runtime import Replica, StartReplica


@pytest.fixture
def keyed(start_replica: StartReplica) -> Replica:
    """A runtime that asks for keys; it is called with the key of the environment."""
    replica = start_replica(RUNTIME_API_KEY=ADMIN_KEY)
    replica.until_listening()
    return replica
