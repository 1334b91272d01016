"""Membridge as a part of `bloom up`."""

import re
import stat
from typing import Any

import httpx
from up_process import START_SEC, WAIT_SEC, Starter, Up

PROJECT = {"name": "garden"}


def membridge_url(one: Up) -> str:
    """Where its Membridge answers, as it printed it."""
    (address,) = re.findall(r"^ +Membridge (\S+:\d+)", one.printed, re.MULTILINE)
    return f"http://{address}"


def through_the_runtime(one: Up, path: str) -> Any:
    answer = httpx.get(f"{one.url}/api/membridge{path}", timeout=START_SEC, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_membridge_runs_beside_the_runtime_with_a_key_of_its_own_and_is_started_again(up: Starter) -> None:
    one = up(BLOOM_UP_SLOTS="1")
    path = one.data_dir / "membridge.key"
    key = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(key) > 40
    assert "key in .bloom/membridge.key" in one.printed and key not in one.printed
    url = membridge_url(one)
    assert httpx.get(f"{url}/projects", trust_env=False).status_code == 401
    headers = {"X-MEMBRIDGE-ADMIN": key}
    answer = httpx.post(f"{url}/projects", json=PROJECT, headers=headers, timeout=WAIT_SEC, trust_env=False)
    assert answer.status_code == 201, answer.text
    assert [project["name"] for project in through_the_runtime(one, "/projects")] == ["garden"]
    for process in one.descendants():
        assert key not in " ".join(process.cmdline())
    assert key not in str(one.child("worker").environ())
    one.child("membridge").kill()
    one.wait_for("Membridge runs again", WAIT_SEC)
    assert httpx.get(f"{url}/health", timeout=START_SEC, trust_env=False).json()["projects"] == 1
    one.stop()
    assert not any(key in log.read_text() for log in (one.data_dir / "logs").iterdir())
    again = up()
    assert path.read_text().strip() == key
    assert [project["name"] for project in through_the_runtime(again, "/projects")] == ["garden"]


def test_a_key_that_is_set_is_the_one_and_a_membridge_elsewhere_replaces_the_one_here(up: Starter) -> None:
    one = up(directory="one", MEMBRIDGE_ADMIN_KEY="the key of all")
    assert not (one.data_dir / "membridge.key").exists()
    url = membridge_url(one)
    two = up(directory="two", MEMBRIDGE_SERVER_URL=url, MEMBRIDGE_ADMIN_KEY="the key of all")
    assert not any("membridge" in process.cmdline() for process in two.descendants())
    headers = {"X-MEMBRIDGE-ADMIN": "the key of all"}
    httpx.post(f"{url}/projects", json=PROJECT, headers=headers, timeout=WAIT_SEC, trust_env=False).raise_for_status()
    for each in (one, two):
        assert [project["name"] for project in through_the_runtime(each, "/projects")] == ["garden"]
