"""`bloom up` as a person meets it: real processes, real signals, real crashes."""

import re
import signal
import socket
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from up_process import (
    READY_SEC,
    START_SEC,
    STOP_SEC,
    WAIT_SEC,
    Starter,
    Up,
    busyness,
    create_task,
    healthy,
    starter,
    task_of,
    wait_until_gone,
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, made_database: Path) -> Generator[Up]:
    """One that started from nothing, as a person's first one does, with three slots; for tests that do not touch it."""
    with starter(tmp_path_factory.mktemp("running"), made_database) as start:
        yield start(fresh=True, BLOOM_PROCESSES="", BLOOM_UP_SLOTS="3")


def test_it_prints_one_url_where_the_runtime_answers_and_how_to_go_on(running: Up) -> None:
    assert healthy(running.url)
    assert (running.data_dir / "endpoint").read_text() == f"{running.url}\n"
    assert re.search(r"PostgreSQL \d+ started \(\d", running.printed)
    assert re.search(r"Worker \S+ (online|starting) \(3 slots\)", running.printed)  # it has 3 s to be online
    assert re.search(r"Executor +(claude|command): \S.*", running.printed)
    bloom = Path(sys.executable).with_name("bloom")
    assert f'{bloom} task run "Say hello"' in running.printed
    assert "BLOOM_DATA_DIR" not in running.printed
    assert ".bloom/logs/runtime.log" in running.printed
    assert "\x1b" not in running.printed
    arguments = running.child("worker").cmdline()
    assert arguments[arguments.index("--slots") + 1] == "3"


def test_ctrl_c_ends_everything_in_time_and_the_next_start_has_the_data_at_once(up: Starter) -> None:
    one = up(BLOOM_PROCESSES="2", BLOOM_UP_SLOTS="2")
    kept = create_task(one.url)
    assert one.stop(signal.SIGINT) < STOP_SEC * busyness()
    assert "Data is kept in .bloom" in one.printed
    assert not (one.data_dir / "endpoint").exists()
    again = up()
    assert time.monotonic() - again.began < READY_SEC * busyness()
    assert task_of(again.url, kept)["prompt"] == "Say hello"
    # Being told to stop ends it as Ctrl-C does; what closed terminals do is tried below.
    assert again.stop(signal.SIGTERM) < STOP_SEC * busyness()


def test_children_that_hang_do_not_hold_up_the_stop(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    for child in ("serve", "worker"):
        one.child(child).suspend()
    assert one.stop() < STOP_SEC * busyness()


def test_a_second_signal_ends_everything_at_once(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    one.child("worker").suspend()
    one.process.send_signal(signal.SIGINT)
    one.wait_for("Stopping", WAIT_SEC)
    assert one.stop() < 2 * busyness()


def test_a_stop_while_it_sets_up_leaves_nothing_running(up: Starter) -> None:
    one = up(wait=False, fresh=True)
    one.wait_for("PostgreSQL:")
    assert one.stop() < STOP_SEC * busyness()
    up().stop()


def test_kill_9_of_up_alone_and_of_everything_loses_nothing_and_needs_no_repair(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    kept = create_task(one.url)
    runtime, worker, database = one.child("serve"), one.child("worker"), one.postmaster()
    one.process.kill()
    wait_until_gone([runtime, worker])
    # The database lives on until the next start replaces it.
    again = up(BLOOM_UP_SLOTS="1")
    wait_until_gone([database])
    assert task_of(again.url, kept)["id"] == kept

    below = again.descendants()
    for process in [again.process, *below]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    again.process.wait(WAIT_SEC)
    wait_until_gone(below)
    assert task_of(up().url, kept)["id"] == kept


def test_a_part_that_dies_is_started_again_at_the_same_address_and_a_closed_terminal_ends_it(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    kept = create_task(one.url)
    died = one.child("worker")
    died.kill()
    one.wait_for("Worker runs again", WAIT_SEC)
    assert one.child("worker").pid != died.pid

    one.child("serve").kill()
    one.wait_for("Runtime runs again", WAIT_SEC)
    assert "Runtime stopped (signal 9" in one.printed
    assert healthy(one.url)

    one.postmaster().kill()
    one.wait_for("PostgreSQL runs again", START_SEC)
    assert task_of(one.url, kept)["id"] == kept

    assert one.stop(signal.SIGHUP) < STOP_SEC * busyness()


def test_a_busy_port_that_was_asked_for_is_an_error(up: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        one = up(wait=False, fresh=True, PORT=str(port))
        assert one.finish() == 1
    assert f"port {port} is in use" in one.printed
    assert "http://" not in one.printed


def test_a_busy_default_port_is_passed_over_and_the_next_one_printed(up: Starter) -> None:
    # Where another program has 5000 already, it is busy all the same.
    with suppress(OSError), socket.create_server(("127.0.0.1", 5000)):
        one = up(PORT="")
        assert one.port > 5000
        assert healthy(one.url)
        return
    assert up(PORT="").port > 5000


def test_two_directories_side_by_side_do_not_meet_and_no_slots_start_no_worker(running: Up, up: Starter) -> None:
    other = up(BLOOM_UP_SLOTS="0")
    assert other.url != running.url
    task = create_task(other.url)
    answer = httpx.get(f"{running.url}/api/runtime/llm-tasks/{task}", timeout=WAIT_SEC, trust_env=False)
    assert answer.status_code == 404
    assert not any("worker" in process.cmdline() for process in other.descendants())
    assert "Executor" not in other.printed


def test_a_second_one_in_the_same_directory_says_who_is_there(running: Up, up: Starter) -> None:
    other = up(wait=False, BLOOM_DATA_DIR=str(running.data_dir))
    assert other.finish() == 1
    assert "another BLOOM uses this data directory" in other.printed
    assert str(running.process.pid) in other.printed
    assert healthy(running.url)


def test_a_setting_that_cannot_be_is_refused_before_anything_starts(up: Starter) -> None:
    one = up(wait=False, fresh=True, BLOOM_UP_SLOTS="many")
    assert one.finish() == 2
    assert "BLOOM_UP_SLOTS" in one.printed
    assert not one.data_dir.exists()


def test_no_secret_is_in_a_command_line_or_in_the_workers_environment(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1", RUNTIME_API_KEY="key-of-this-runtime", MINIO_SECRET_KEY="key-of-the-store")
    password = (one.data_dir / "postgres.password").read_text().strip()
    for process in one.descendants():
        with suppress(psutil.NoSuchProcess):
            arguments = " ".join(process.cmdline())
            for secret in (password, "key-of-this-runtime", "key-of-the-store"):
                assert secret not in arguments
    environment = one.child("worker").environ()
    assert environment["BLOOM_API_KEY"] == "key-of-this-runtime"
    assert not {"DATABASE_URL", "RUNTIME_API_KEY", "MINIO_SECRET_KEY"} & set(environment)
    assert password not in " ".join(environment.values())
    logs = [path.read_text() for path in (one.data_dir / "logs").iterdir()]
    for text in [one.printed, *logs]:
        assert password not in text
        assert "key-of-this-runtime" not in text


def test_without_a_key_it_does_not_listen_to_other_machines(up: Starter) -> None:
    one = up(wait=False, fresh=True, BLOOM_HOST="0.0.0.0")  # noqa: S104
    assert one.finish() == 1
    assert "RUNTIME_API_KEY" in one.printed


def test_a_runtime_that_cannot_start_shows_the_end_of_its_log_and_no_secret(up: Starter) -> None:
    one = up(wait=False, fresh=True, DATABASE_URL="postgresql://me:hidden-word@127.0.0.1:1/none?connect_timeout=2")
    assert one.finish() == 1
    assert "the runtime stopped while it started" in one.printed
    assert str(one.data_dir / "logs" / "runtime.log") in one.printed
    assert "  | " in one.printed
    assert "hidden-word" not in one.printed


def test_the_database_that_database_url_names_is_used_instead_of_an_own_one(running: Up, up: Starter) -> None:
    # Runtimes on one database share their secret.
    secret = (running.data_dir / "secret.key").read_text().strip()
    other = up(fresh=True, DATABASE_URL=running.child("serve").environ()["DATABASE_URL"], BLOOM_SECRET_KEY=secret)
    task = create_task(other.url)
    assert task_of(running.url, task)["id"] == task
    assert not (other.data_dir / "postgres").exists()
    other.stop()
