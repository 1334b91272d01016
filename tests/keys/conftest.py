from collections.abc import Generator

import pytest
from key_holders import ADMIN_KEY
from tests.real_postgres import PostgresServer
from tests.real_runtime import Replica, StartReplica


@pytest.fixture
def keyed(start_replica: StartReplica) -> Replica:
    """A runtime that asks for keys; it is called with the key of the environment."""
    replica = start_replica(RUNTIME_API_KEY=ADMIN_KEY)
    replica.until_listening()
    return replica


@pytest.fixture(scope="module")
def quiet_keyed(postgres_server: PostgresServer) -> Generator[Replica]:
    """Such a runtime for all tests of a module that leave nothing behind which another one could meet."""
    with postgres_server.database() as database, Replica(database.url, RUNTIME_API_KEY=ADMIN_KEY) as replica:
        replica.until_listening()
        yield replica
