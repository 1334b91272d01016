"""What tests of several parts share: a real PostgreSQL, and the real runtime on it."""

import os
import signal
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.real_postgres", "tests.real_runtime", "tests.runtime.invariants")

from tests.real_postgres import FreshDatabase, PostgresServer, running_server  # noqa: E402
from tests.real_runtime import Replica, Served, StartReplica, StartServed  # noqa: E402

# What a developer has set for a runtime of his own is not for the tests.
for _name in tuple(os.environ):
    if _name in ("DATABASE_URL", "RUNTIME_API_KEY", "NODE_ENV", "PORT") or (
        _name.startswith(("BLOOM_", "MINIO_", "MEMBRIDGE_")) and not _name.startswith("BLOOM_TEST_")
    ):
        del os.environ[_name]

# Who starts the tests in the background (`&`, nohup) has these ignored, and every child would inherit that.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def postgres_server() -> Generator[PostgresServer]:
    """The PostgreSQL of this test process."""
    with running_server() as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Generator[FreshDatabase]:
    """A database with the newest schema."""
    with postgres_server.database() as fresh:
        yield fresh


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Generator[FreshDatabase]:
    """A database without our schema."""
    with postgres_server.database(empty=True) as fresh:
        yield fresh


@pytest.fixture
def start_replica(database: FreshDatabase) -> Generator[StartReplica]:
    """Starts one more runtime: `start_replica(maintenance=True, RUNTIME_API_KEY="key")`."""
    with ExitStack() as stack:

        def start(*, maintenance: bool = False, **environment: str) -> Replica:
            return stack.enter_context(Replica(database.url, maintenance=maintenance, **environment))

        yield start


@pytest.fixture
def runtime(start_replica: StartReplica) -> Replica:
    """The real app under a real server, in development mode, where nothing happens by the clock."""
    return start_replica()


@pytest.fixture
def served(database: FreshDatabase, tmp_path: Path) -> Generator[StartServed]:
    """Starts `bloom serve` as a process on the test's database, with these settings."""
    with ExitStack() as stack:

        def start(**environment: str) -> Served:
            server = Served(database.url, tmp_path / "serve.log", **environment)
            stack.callback(server.stop)
            server.start()
            return server

        yield start
