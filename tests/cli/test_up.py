"""`bloom up` as a person meets it: real processes, real signals, real crashes."""

import re
import signal
import socket
import sys
import time
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
    busyness,
    create_task,
    data_dir_of,
    healthy,
    task_of,
    wait_until_gone,
)


def test_it_prints_one_url_where_the_runtime_answers_and_how_to_go_on(up: Starter, tmp_path: Path) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    assert healthy(one.url)
    assert (data_dir_of(tmp_path) / "endpoint").read_text() == f"{one.url}\n"
    assert re.search(r"PostgreSQL \d+ started \(\d", one.printed)
    assert re.search(r"Worker \S+ online \(1 slot\)", one.printed)
    assert re.search(r"Executor +(claude|command): \S.*", one.printed)
    bloom = Path(sys.executable).with_name("bloom")
    assert f'{bloom} task run "Say hello"' in one.printed
    assert "BLOOM_DATA_DIR" not in one.printed
    assert ".bloom/logs/runtime.log" in one.printed
    assert "\x1b" not in one.printed


def test_ctrl_c_ends_everything_in_time_and_the_next_start_has_the_data_at_once(up: Starter, tmp_path: Path) -> None:
    one = up(BLOOM_UP_SLOTS="2")
    kept = create_task(one.url)
    assert one.stop(signal.SIGINT) < STOP_SEC * busyness()
    assert "Data is kept in .bloom" in one.printed
    assert not (data_dir_of(tmp_path) / "endpoint").exists()
    again = up()
    assert time.monotonic() - again.began < READY_SEC * busyness()
    assert task_of(again.url, kept)["prompt"] == "Say hello"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_told_to_stop_and_a_closed_terminal_end_it_as_ctrl_c_does(up: Starter, number: signal.Signals) -> None:
    assert up().stop(number) < STOP_SEC * busyness()


@pytest.mark.parametrize("frozen", ["serve", "worker"])
def test_a_child_that_hangs_does_not_hold_up_the_stop(up: Starter, frozen: str) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    one.child(frozen).suspend()
    assert one.stop() < STOP_SEC * busyness()


def test_a_second_signal_ends_everything_at_once(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    one.child("worker").suspend()
    one.process.send_signal(signal.SIGINT)
    one.wait_for("Stopping", WAIT_SEC)
    assert one.stop() < 2 * busyness()


def test_a_stop_while_it_sets_up_leaves_nothing_running(up: Starter) -> None:
    one = up(wait=False)
    one.wait_for("PostgreSQL:")
    assert one.stop() < STOP_SEC * busyness()
    up().stop()


def test_kill_9_of_everything_loses_nothing_and_needs_no_repair(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    kept = create_task(one.url)
    below = one.descendants()
    for process in [one.process, *below]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    one.process.wait(WAIT_SEC)
    wait_until_gone(below)
    again = up()
    assert task_of(again.url, kept)["id"] == kept


def test_kill_9_of_up_alone_ends_its_children_and_the_next_start_replaces_the_database(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    kept = create_task(one.url)
    runtime, worker, database = one.child("serve"), one.child("worker"), one.postmaster()
    one.process.kill()
    wait_until_gone([runtime, worker])
    again = up()
    wait_until_gone([database])
    assert task_of(again.url, kept)["id"] == kept


def test_a_runtime_that_dies_is_started_again_at_the_same_address(up: Starter) -> None:
    one = up()
    one.child("serve").kill()
    one.wait_for("Runtime runs again", WAIT_SEC)
    assert "Runtime stopped (signal 9" in one.printed
    assert healthy(one.url)


def test_a_worker_that_dies_is_started_again(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    died = one.child("worker")
    died.kill()
    one.wait_for("Worker runs again", WAIT_SEC)
    assert one.child("worker").pid != died.pid


def test_a_database_that_dies_is_started_again_and_loses_nothing(up: Starter) -> None:
    one = up()
    kept = create_task(one.url)
    one.postmaster().kill()
    one.wait_for("PostgreSQL runs again", START_SEC)
    assert task_of(one.url, kept)["id"] == kept


def test_a_busy_port_that_was_asked_for_is_an_error(up: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        one = up(wait=False, PORT=str(port))
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


def test_two_directories_side_by_side_do_not_meet(up: Starter) -> None:
    one, two = up(directory="one"), up(directory="two")
    assert one.url != two.url
    task = create_task(one.url)
    answer = httpx.get(f"{two.url}/api/runtime/llm-tasks/{task}", timeout=WAIT_SEC, trust_env=False)
    assert answer.status_code == 404


def test_a_second_one_in_the_same_directory_says_who_is_there(up: Starter) -> None:
    one = up()
    other = up(wait=False)
    assert other.finish() == 1
    assert "another BLOOM uses this data directory" in other.printed
    assert str(one.process.pid) in other.printed
    assert healthy(one.url)


def test_slots_are_the_workers_and_none_starts_no_worker(up: Starter) -> None:
    one = up(directory="one", BLOOM_UP_SLOTS="3")
    arguments = one.child("worker").cmdline()
    assert arguments[arguments.index("--slots") + 1] == "3"
    two = up(directory="two", BLOOM_UP_SLOTS="0")
    assert not any("worker" in process.cmdline() for process in two.descendants())
    assert "Executor" not in two.printed


def test_a_setting_that_cannot_be_is_refused_before_anything_starts(up: Starter, tmp_path: Path) -> None:
    one = up(wait=False, BLOOM_UP_SLOTS="many")
    assert one.finish() == 2
    assert "BLOOM_UP_SLOTS" in one.printed
    assert not data_dir_of(tmp_path).exists()


def test_no_secret_is_in_a_command_line_or_in_the_workers_environment(up: Starter, tmp_path: Path) -> None:
    one = up(BLOOM_UP_SLOTS="1", RUNTIME_API_KEY="key-of-this-runtime", MINIO_SECRET_KEY="key-of-the-store")
    password = (data_dir_of(tmp_path) / "postgres.password").read_text().strip()
    for process in one.descendants():
        with suppress(psutil.NoSuchProcess):
            arguments = " ".join(process.cmdline())
            for secret in (password, "key-of-this-runtime", "key-of-the-store"):
                assert secret not in arguments
    environment = one.child("worker").environ()
    assert environment["BLOOM_API_KEY"] == "key-of-this-runtime"
    assert not {"DATABASE_URL", "RUNTIME_API_KEY", "MINIO_SECRET_KEY"} & set(environment)
    assert password not in " ".join(environment.values())
    logs = [path.read_text() for path in (data_dir_of(tmp_path) / "logs").iterdir()]
    for text in [one.printed, *logs]:
        assert password not in text
        assert "key-of-this-runtime" not in text


def test_without_a_key_it_does_not_listen_to_other_machines(up: Starter) -> None:
    one = up(wait=False, BLOOM_HOST="0.0.0.0")  # noqa: S104
    assert one.finish() == 1
    assert "RUNTIME_API_KEY" in one.printed


def test_a_runtime_that_cannot_start_shows_the_end_of_its_log_and_no_secret(up: Starter, tmp_path: Path) -> None:
    one = up(wait=False, DATABASE_URL="postgresql://me:hidden-word@127.0.0.1:1/none?connect_timeout=2")
    assert one.finish() == 1
    assert "the runtime stopped while it started" in one.printed
    assert str(data_dir_of(tmp_path) / "logs" / "runtime.log") in one.printed
    assert "  | " in one.printed
    assert "hidden-word" not in one.printed


def test_the_database_that_database_url_names_is_used_instead_of_an_own_one(up: Starter, tmp_path: Path) -> None:
    one = up(directory="one")
    url = one.child("serve").environ()["DATABASE_URL"]
    two = up(directory="two", DATABASE_URL=url)
    task = create_task(one.url)
    assert task_of(two.url, task)["id"] == task
    assert not (data_dir_of(tmp_path, "two") / "postgres").exists()
    two.stop()
