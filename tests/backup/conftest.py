"""`bloom` as the tests of backups run it: in this process, told all by its environment."""

import logging
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from tests.blobs.blob_servers import S3Server
from typer.testing import CliRunner, Result

from bloom.cli.main import app

Bloom = Callable[..., Result]
PASSPHRASE = "canary-passphrase-3c1d"


def running(here: Path) -> Bloom:
    """Runs `bloom ARGS` with these variables, and a data directory of the test's own unless they name one."""
    runner = CliRunner()

    def run(*args: str | Path, **environment: str) -> Result:
        variables = {"BLOOM_DATA_DIR": str(here / "here"), **environment}
        return runner.invoke(app, [str(arg) for arg in args], env=variables, catch_exceptions=False)

    return run


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
