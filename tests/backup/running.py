"""`bloom` as the tests of backups run it: in this process, told all by its environment."""

from collections.abc import Callable
from pathlib import Path

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
