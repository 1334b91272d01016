"""What the tests of backups share."""

import logging
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.backup.running import Bloom, running
from tests.blobs.blob_servers import S3Server


@pytest.fixture
def bloom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bloom:
    """`running`, in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    return running(tmp_path)


@pytest.fixture(scope="module")
def s3_server() -> Generator[S3Server]:
    """An S3 server on a free port of loopback."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = S3Server()
    server.start()
    yield server
    server.stop()
