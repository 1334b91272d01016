"""What the tests of sync share: processes, stores, the control plane."""

import logging
from collections.abc import Generator
from pathlib import Path

import pytest
from nodes import World, Zygote
from tests.blobs.blob_servers import S3Server
from tests.real_membridge import Membridge
from tests.real_postgres import PostgresServer
from worlds import STORES, make_world


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Generator[Zygote]:
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def s3_endpoint() -> Generator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    server.start()
    yield server.endpoint
    server.stop()


@pytest.fixture(scope="session")
def plane(postgres_server: PostgresServer) -> Generator[Membridge]:
    """One control plane for all tests; each has a project of its own."""
    with postgres_server.database() as database:
        plane = Membridge(database.url)
        try:
            yield plane
        finally:
            plane.stop()


@pytest.fixture(params=["bucket", "plane"])
def world(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> World:
    """A directory as the store, with the bucket or the control plane to decide."""
    return make_world(request, zygote, tmp_path, "directory", str(request.param))


@pytest.fixture
def bucket_world(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> World:
    """A directory as the store, and nothing else."""
    return make_world(request, zygote, tmp_path, "directory", "bucket")


@pytest.fixture
def plane_world(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> World:
    """A directory as the store, and the control plane."""
    return make_world(request, zygote, tmp_path, "directory", "plane")


@pytest.fixture(params=[f"{store}-{decider}" for store in STORES for decider in ("bucket", "plane")])
def any_world(request: pytest.FixtureRequest, zygote: Zygote, tmp_path: Path) -> World:
    """Every store with either decider."""
    store, _, decider = str(request.param).partition("-")
    return make_world(request, zygote, tmp_path, store, decider)
