"""`bloom db import-predecessor`, run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.real_postgres import FreshDatabase
from typer.testing import CliRunner

from bloom.cli.main import app

Importing = Callable[..., dict[str, Any]]
COMMAND = ("db", "import-predecessor")


@pytest.fixture
def importing(database: FreshDatabase, tmp_path: Path) -> Importing:
    """Imports, with these settings; what it says, or what it says is wrong."""

    def run(*args: str, **environment: str) -> dict[str, Any]:
        variables = {"DATABASE_URL": database.url, "BLOOM_DATA_DIR": str(tmp_path), **environment}
        done = CliRunner().invoke(app, [*COMMAND, "--json", *args], env=variables, catch_exceptions=False)
        assert (done.exit_code == 0) == (not done.stderr), done.output
        return json.loads(done.stdout if done.exit_code == 0 else done.stderr)

    return run
