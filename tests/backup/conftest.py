"""`bloom` as the tests of backups run it: in this process, told all by its environment."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bloom.cli.main import app

Bloom = Callable[..., Result]
PASSPHRASE = "canary-passphrase-3c1d"


@pytest.fixture
def bloom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Bloom]:
    """Runs `bloom ARGS` with these variables, and a data directory of the test's own unless they name one."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(*args: str | Path, **environment: str) -> Result:
        variables = {"BLOOM_DATA_DIR": str(tmp_path / "here"), **environment}
        return runner.invoke(app, [str(arg) for arg in args], env=variables, catch_exceptions=False)

    yield run
