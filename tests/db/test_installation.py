"""All replicas of an installation share one secret: who has another one does not start."""

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, at_once, in_background, told
from typer.testing import CliRunner

from bloom.base.errors import ConfigurationError, Unavailable
from bloom.cli.main import app
from bloom.db.installation import claim_secret, forget_secret

OURS, THEIRS = b"our mark", b"their mark"
START_SEC = 60


def claims(database: FreshDatabase, mark: bytes) -> bool:
    """Whether the secret with this mark is taken for the installation's."""
    try:
        claim_secret(database.url, mark)
    except ConfigurationError as error:
        assert "BLOOM_SECRET_KEY" in error.message and "bloom db forget-secret" in error.message
        return False
    return True


def test_the_first_secret_is_the_installations(database: FreshDatabase) -> None:
    assert [claims(database, mark) for mark in (OURS, OURS, THEIRS, OURS, b"")] == [True, True, False, True, False]


def test_of_replicas_that_start_at_once_those_with_one_secret_go_on(database: FreshDatabase) -> None:
    marks = [OURS, THEIRS] * 4
    started = at_once(len(marks), lambda n: claims(database, marks[n]))
    winner = marks[started.index(True)]
    assert started == [mark == winner for mark in marks]


@pytest.mark.parametrize(("mark", "starts"), [(OURS, True), (THEIRS, False)])
def test_who_waits_for_the_first_one_goes_by_its_secret(database: FreshDatabase, mark: bytes, starts: bool) -> None:
    with psycopg.connect(database.url) as first:
        first.execute("update bloom.installation set secret_mark = %s", (OURS,))
        with in_background(lambda: claims(database, mark)) as second:
            eventually(lambda: database.value("select count(*) from pg_locks where not granted"))
            first.commit()
            assert second.result() is starts


def test_a_database_that_is_away_is_said_so() -> None:
    away = "postgresql://127.0.0.1:1/nothing"
    with pytest.raises(Unavailable):
        claim_secret(away, OURS)
    with pytest.raises(Unavailable):
        forget_secret(away)


def test_a_forgotten_secret_is_chosen_anew_and_what_it_sealed_is_deleted(database: FreshDatabase) -> None:
    assert forget_secret(database.url) == (False, False)
    claim_secret(database.url, OURS)
    with Replica(database.url) as replica:
        told(replica.post("/config", {"membridge_server_url": "http://host:8000", "admin_key": "key of Membridge"}))
        assert forget_secret(database.url) == (True, True)
        assert told(replica.get("/config"))["admin_key_masked"] == ""
    assert claims(database, THEIRS) and not claims(database, OURS)


def test_the_command_asks_and_then_forgets(database: FreshDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    claim_secret(database.url, OURS)
    said = CliRunner().invoke(app, ["db", "forget-secret"], input="n\n")
    assert said.exit_code == 1 and not claims(database, THEIRS)
    said = CliRunner().invoke(app, ["db", "forget-secret", "--yes"])
    assert (said.exit_code, said.stdout) == (0, "the secret is forgotten; the next runtime that starts chooses it\n")
    said = CliRunner().invoke(app, ["db", "forget-secret", "--yes", "--json"])
    assert json.loads(said.stdout) == {"forgotten": False, "membridge_key_deleted": False}
    assert claims(database, THEIRS)


@contextmanager
def starting(database: FreshDatabase, data_dir: Path) -> Generator[subprocess.Popen[str]]:
    environment = {**os.environ, "DATABASE_URL": database.url, "BLOOM_DATA_DIR": str(data_dir)}
    command = [sys.executable, "-m", "bloom", "serve", "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_replica_with_another_secret_refuses_to_start(database: FreshDatabase, tmp_path: Path) -> None:
    claim_secret(database.url, OURS)
    with starting(database, tmp_path / "data") as process:
        _, said = process.communicate(timeout=START_SEC)
    assert process.returncode == 2
    assert "The secret of this runtime is not the one of the other runtimes on this database" in said
    assert "Traceback" not in said and (tmp_path / "data" / "secret.key").read_text().strip() not in said
