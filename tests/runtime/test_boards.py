"""What workers tell of their machines, and what the death of a worker costs a task."""

from typing import Any

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, refused, told
from tests.runtime.invariants import check_invariants

BOARD: dict[str, Any] = {
    "free_memory_bytes": 512 * 1024**2,
    "total_memory_bytes": 4 * 1024**3,
    "load_1m": 0.75,
    "cores": 4,
    "temperature_c": 51.5,
    "free_disk_bytes": 12 * 1024**3,
    "pressure": [],
}
PRESSED: dict[str, Any] = {
    **BOARD,
    "free_memory_bytes": 1024,
    "temperature_c": None,
    "pressure": ["0 MB of memory are free"],
}


def board_of(runtime: Replica, worker_id: str = "worker") -> Any:
    return told(runtime.get(f"/workers/{worker_id}"))["board"]


def be_silent(database: FreshDatabase) -> None:
    """Let the last sign of life be so old that the next one is written down."""
    database.edit("update bloom.workers set last_heartbeat = now() - interval '6 seconds'")


def test_the_board_of_a_claim_and_of_an_extend_is_shown(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register()
    assert board_of(runtime) is None
    be_silent(database)
    told(runtime.post("/workers/worker/claim", {"request_id": "one", "board": BOARD}))
    assert board_of(runtime) == BOARD
    be_silent(database)
    told(runtime.post("/workers/worker/extend", {"leases": [], "board": PRESSED}))
    assert board_of(runtime) == PRESSED
    assert told(runtime.get("/workers"))[0]["board"] == PRESSED


def test_an_extend_of_nothing_is_a_sign_of_life_and_without_a_board_the_last_one_stays(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register(status="offline")
    told(runtime.post("/workers/worker/extend", {"leases": [], "board": BOARD}))
    assert told(runtime.get("/workers/worker"))["status"] == "online"
    be_silent(database)
    told(runtime.post("/workers/worker/extend", {"leases": []}))
    assert board_of(runtime) == BOARD


@pytest.mark.parametrize(
    "board",
    [
        {"free_memory_bytes": -1},
        {"load_1m": "much"},
        {"temperature_c": 1e9},
        {"cores": 0},
        {"pressure": ["\x00"]},
        {"pressure": ["x"] * 9},
        [],
    ],
)
def test_a_board_that_cannot_be_is_refused(quiet_runtime: Replica, board: Any) -> None:
    quiet_runtime.register()
    assert refused(quiet_runtime.post("/workers/worker/extend", {"leases": [], "board": board}), 400) == "invalid"


def test_boards_of_several_workers_are_not_mixed_up(runtime: Replica, database: FreshDatabase) -> None:
    for name in ("one", "two"):
        runtime.register(name)
    be_silent(database)
    told(runtime.post("/workers/one/extend", {"leases": [], "board": {**BOARD, "cores": 1}}))
    told(runtime.post("/workers/two/extend", {"leases": [], "board": {**BOARD, "cores": 2}}))
    assert [board_of(runtime, name)["cores"] for name in ("one", "two")] == [1, 2]


def test_the_page_shows_the_board_and_why_a_worker_takes_nothing(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register("<calm>")
    runtime.register("pressed")
    be_silent(database)
    told(runtime.post("/workers/%3Ccalm%3E/extend", {"leases": [], "board": BOARD}))
    told(runtime.post("/workers/pressed/extend", {"leases": [], "board": PRESSED}))
    page = runtime.http.get(f"{runtime.url}/workers").text
    for words in (
        "memory: 512 MiB free",
        "load: 0.75",
        "on 4 cores",
        "51.5 °C",
        "takes nothing new:",
        "0 MB of memory are free",
    ):
        assert words in page


def test_the_death_of_its_worker_costs_a_task_an_attempt_from_the_third_time_on(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register()
    task = runtime.create(max_attempts=2, retry={"base_sec": 0, "max_sec": 0})
    died = {"hand_back": True, "retryable": True, "code": "worker_died"}
    seen: list[tuple[str, int]] = []
    for _ in range(4):
        lease = runtime.lease(task["id"], "worker")
        after = told(runtime.fail(task["id"], lease["id"], **died))["task"]
        seen.append((after["status"], after["attempts"]))
        check_invariants(database)
    assert seen == [("queued", 0), ("queued", 0), ("queued", 1), ("dead", 2)]
    told(runtime.post(f"/llm-tasks/{task['id']}/requeue"))
    lease = runtime.lease(task["id"], "worker")
    assert told(runtime.fail(task["id"], lease["id"], **died))["task"]["attempts"] == 0


def test_a_task_that_a_stopped_worker_hands_back_never_loses_an_attempt(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.register()
    task = runtime.create(max_attempts=1)
    for _ in range(4):
        lease = runtime.lease(task["id"], "worker")
        after = told(runtime.fail(task["id"], lease["id"], hand_back=True, retryable=True, code="interrupted"))["task"]
        assert (after["status"], after["attempts"]) == ("queued", 0)
    check_invariants(database)
