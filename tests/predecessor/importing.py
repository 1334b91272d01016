"""`bloom db import-predecessor`, run in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from bloom.cli.main import app

Importing = Callable[..., dict[str, Any]]


def importing_into(url: str, data_dir: Path) -> Importing:
    """Imports, with these settings; what it says, or what it says is wrong."""

    def run(*args: str, **environment: str) -> dict[str, Any]:
        variables = {"DATABASE_URL": url, "BLOOM_DATA_DIR": str(data_dir), **environment}
        command = ["db", "import-predecessor", "--json", *args]
        done = CliRunner().invoke(app, command, env=variables, catch_exceptions=False)
        assert (done.exit_code == 0) == (not done.stderr), done.output
        return json.loads(done.stdout if done.exit_code == 0 else done.stderr)

    return run
