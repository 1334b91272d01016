"""What tests of several parts share: a real PostgreSQL, and the real runtime on it."""

import gc
import os
import signal
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.real_postgres", "tests.real_runtime", "tests.runtime.invariants")

from tests.real_postgres import FreshDatabase, PostgresServer, running_server  # noqa: E402
from tests.real_runtime import Replica, Served, StartReplica, StartServed  # noqa: E402

from bloom.db.embedded import EmbeddedPostgres  # noqa: E402
from bloom.db.migrate import upgrade  # noqa: E402

# What a developer has set for a runtime of his own is not for the tests.
for _name in tuple(os.environ):
    if _name in ("DATABASE_URL", "RUNTIME_API_KEY", "NODE_ENV", "PORT") or (
        _name.startswith(("BLOOM_", "MINIO_", "MEMBRIDGE_", "OTEL_")) and not _name.startswith("BLOOM_TEST_")
    ):
        del os.environ[_name]

# Who starts the tests in the background (`&`, nohup) has these ignored, and every child would inherit that.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Asyncio is what the runtime and the worker run on."""
    return "asyncio"


@pytest.fixture
def worker_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker directory of the test's own."""
    directory = tmp_path / "worker"
    directory.mkdir()
    monkeypatch.setenv("BLOOM_WORKER_DIR", str(directory))
    return directory


@pytest.fixture(scope="session")
def postgres_server() -> Generator[PostgresServer]:
    """The PostgreSQL of this test process."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def made_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a stopped embedded PostgreSQL that has our schema, to be copied: making one takes longer."""
    place = tmp_path_factory.mktemp("made") / "data"
    with EmbeddedPostgres(place) as postgres:
        upgrade(postgres.start())
    return place


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


@pytest.fixture(scope="module")
def quiet_runtime(postgres_server: PostgresServer) -> Generator[Replica]:
    """A runtime for all tests of a module that leave nothing behind which another one could meet: most refusals."""
    with postgres_server.database() as database, Replica(database.url) as replica:
        yield replica


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
