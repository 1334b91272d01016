"""The release before this one runs on the schema of this one: while replicas are replaced, and when one goes back."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Generator
from io import BytesIO
from pathlib import Path

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Served, told
from tests.runtime.invariants import check_invariants

ROOT = Path(__file__).parents[2]
GIVEN = os.environ.get("BLOOM_TEST_PREVIOUS_RELEASE")
"""A commit or tag to take in place of the newest tag."""


def git(*args: str) -> bytes:
    """What git says in this checkout."""
    return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, check=True, timeout=60).stdout


def previous_release() -> str:
    """The newest tag of a release before this commit."""
    if GIVEN:
        return GIVEN
    try:
        # A tag on this very commit is this release.
        return git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD^").decode().strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no tag of a release before this commit yet: from the first one on, this test runs it")


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The source of the release before this one."""
    with tarfile.open(fileobj=BytesIO(git("archive", previous_release(), "src"))) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path / "src"


@pytest.fixture
def runtime(previous: Path, database: FreshDatabase, tmp_path: Path) -> Generator[Served]:
    """That release's `bloom serve`, started on a database that this one has made."""
    environment = {"PYTHONPATH": str(previous), "BLOOM_DATA_DIR": str(tmp_path / "data")}
    found = subprocess.run(
        [sys.executable, "-c", "import bloom; print(bloom.__file__)"],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert found.stdout.startswith(str(previous)), "another source would be tried"
    server = Served(database.url, tmp_path / "serve.log", **environment)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_the_previous_release_serves_a_task_on_this_schema(runtime: Served, database: FreshDatabase) -> None:
    runtime.register(slots=2)
    task, lease = runtime.leased()
    told(runtime.heartbeat(task["id"], lease["id"]))
    told(runtime.complete(task["id"], lease["id"]))
    runtime.create()
    assert [each["task"]["status"] for each in runtime.claim("worker", "1")] == ["leased"]
    assert runtime.task(task["id"])["status"] == "completed"
    check_invariants(database)
