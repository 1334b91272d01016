"""Two things at once, in two replicas, forced into each order by a third party that holds what the first one needs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tests.membridge.conftest import StartPlane
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import at_once, refused, told

from bloom.membridge.model import canonical_id_of, version_key

CID = canonical_id_of("project")
Call = Callable[[Membridge], Any]


class Race:
    """Two replicas and a project whose primary is `a`, with a node `b` beside it."""

    def __init__(self, first: Membridge, second: Membridge, database: FreshDatabase) -> None:
        self.first, self.second, self.database = first, second, database
        first.heartbeat("a")
        first.heartbeat("b")

    def in_order(self, first: Call, second: Call) -> tuple[Any, Any]:
        """What both got: each waits in turn for the row of the project, which is let go when both do."""
        with (
            ThreadPoolExecutor(2) as pool,
            self.database.connect(autocommit=False) as gate,
        ):
            gate.execute("select * from membridge.projects for update")
            one = pool.submit(first, self.first)
            self.database.wait_until_blocked(1)
            two = pool.submit(second, self.second)
            self.database.wait_until_blocked(2)
            gate.rollback()
            return one.result(10), two.result(10)

    def half_done(self, first: Call, second: Call) -> tuple[Any, Any]:
        """What both got: `first` has made its change and not committed it when `second` comes."""
        with (
            ThreadPoolExecutor(2) as pool,
            self.database.connect(autocommit=False) as gate,
        ):
            gate.execute("lock table membridge.audit_log in share mode")
            one = pool.submit(first, self.first)
            self.database.wait_until_blocked(1)
            two = pool.submit(second, self.second)
            self.database.wait_until_blocked(2)
            gate.rollback()
            return one.result(10), two.result(10)

    def expire(self) -> None:
        assert self.database.edit("update membridge.projects set expires_at = now() - interval '1 second'")

    def terms(self) -> list[tuple[int, str]]:
        rows = self.database.rows("select epoch, node_id from membridge.terms order by epoch")
        return [(row["epoch"], row["node_id"]) for row in rows]


@pytest.fixture
def race(start_plane: StartPlane, database: FreshDatabase) -> Race:
    return Race(start_plane(), start_plane(), database)


def asks(node_id: str) -> Call:
    return lambda plane: plane.heartbeat(node_id)


def selects(node_id: str) -> Call:
    return lambda plane: plane.select(node_id)


def pushes(node_id: str, epoch: int, sha: str, based_on: str | None = None) -> Call:
    body = {
        "node_id": node_id,
        "epoch": epoch,
        "sha256": sha * 64,
        "key": version_key(CID, epoch, sha * 64),
        "db_size": 1,
    }
    return lambda plane: plane.post(f"/projects/{CID}/versions", {**body, "based_on": based_on})


@pytest.mark.parametrize("order", ["in_order", "half_done"])
@pytest.mark.parametrize(("one", "other"), [("a", "b"), ("b", "a")])
def test_of_two_nodes_that_ask_at_the_same_ended_lease_one_leads(race: Race, order: str, one: str, other: str) -> None:
    race.expire()
    taken, late = getattr(race, order)(asks(one), asks(other))
    assert (taken["role"], taken["epoch"]) == ("primary", 2)
    assert (late["role"], late["epoch"], late["primary_node_id"]) == ("secondary", 2, one)
    assert race.terms() == [(1, "a"), (2, one)]


def test_many_nodes_that_ask_at_once_give_one_primary_and_one_term(race: Race) -> None:
    for round_ in range(3):
        race.expire()
        told_ = at_once(8, lambda n: (race.first, race.second)[n % 2].heartbeat(f"node-{n}"))
        assert sum(answer["role"] == "primary" for answer in told_) <= 1
        assert {answer["epoch"] for answer in told_} <= {round_ + 1, round_ + 2}
        assert len(race.terms()) <= round_ + 2
        (leader,) = {answer["primary_node_id"] for answer in told_ if answer["epoch"] == round_ + 2} or {""}
        # Whoever was fresher when others asked gets it now, if nobody has.
        rest = [race.first.heartbeat(f"node-{n}") for n in range(8)]
        (answer,) = [answer for answer in rest if answer["role"] == "primary"]
        assert answer["epoch"] == round_ + 2 and leader in ("", answer["primary_node_id"])


def test_a_selection_that_comes_before_a_renewal_ends_the_term_of_who_renews(race: Race) -> None:
    for order in (race.in_order, race.half_done):
        selected, renewed = order(selects("b"), asks("a"))
        assert (renewed["role"], renewed["epoch"]) == ("secondary", selected["epoch"])
        race.first.select("a")
    assert [node for _, node in race.terms()] == ["a", "b", "a", "b", "a"]


def test_a_selection_that_comes_after_a_renewal_ends_it_all_the_same(race: Race) -> None:
    renewed, selected = race.in_order(asks("a"), selects("b"))
    assert (renewed["role"], renewed["epoch"], selected["epoch"]) == ("primary", 1, 2)
    assert race.first.leadership()["lease"]["primary_node_id"] == "b"


def test_a_selection_and_a_node_that_asks_at_the_ended_lease_make_two_terms(race: Race) -> None:
    race.expire()
    asked, selected = race.half_done(asks("a"), selects("b"))
    assert (asked["role"], asked["epoch"], selected["epoch"]) == ("primary", 2, 3)
    race.expire()
    selected, asked = race.half_done(selects("b"), asks("a"))
    assert (selected["epoch"], asked["role"]) == (4, "secondary")


def test_two_selections_at_once_are_two_epochs(race: Race) -> None:
    first, second = race.half_done(selects("b"), selects("a"))
    assert (first["epoch"], second["epoch"]) == (2, 3)
    assert race.terms() == [(1, "a"), (2, "b"), (3, "a")]


def test_a_push_that_comes_before_a_selection_counts_and_one_that_comes_after_is_refused(race: Race) -> None:
    pushed, _ = race.half_done(pushes("a", 1, "1"), selects("b"))
    assert told(pushed, 201)["current"] is True
    _, late = race.half_done(selects("a"), pushes("b", 2, "2", based_on="1" * 64))
    assert refused(late, 409) == "stale_epoch"
    assert told(race.first.get(f"/projects/{CID}/versions/current"))["sha256"] == "1" * 64


@pytest.mark.parametrize("order", ["in_order", "half_done"])
def test_of_two_pushes_on_the_same_ground_one_counts(race: Race, order: str) -> None:
    one, other = getattr(race, order)(pushes("a", 1, "1"), pushes("a", 1, "2"))
    assert told(one, 201)["sha256"] == "1" * 64
    assert refused(other, 409) == "remote_moved" and other.json()["current"] == "1" * 64


def test_the_same_push_twice_at_once_is_one_version(race: Race) -> None:
    one, other = race.half_done(pushes("a", 1, "1"), pushes("a", 1, "1"))
    assert (one.status_code, other.status_code) == (201, 200) and one.json() == other.json()


def test_a_job_that_meets_the_deletion_of_its_project_is_not_made(race: Race) -> None:
    told(race.first.post("/agents", {"name": "pi"}), 201)

    def deletes(plane: Membridge) -> httpx.Response:
        return plane.delete("/projects/project")

    def orders(plane: Membridge) -> httpx.Response:
        return plane.post("/sync/push", {"project": "project", "agent": "pi"})

    deleted, ordered = race.half_done(deletes, orders)
    assert deleted.status_code == 204 and refused(ordered, 404) == "project_not_found"


def test_a_heartbeat_that_meets_the_deletion_of_its_project_makes_it_anew(race: Race) -> None:
    def deletes(plane: Membridge) -> httpx.Response:
        return plane.delete("/projects/project")

    deleted, heard = race.half_done(deletes, asks("b"))
    assert deleted.status_code == 204
    assert (heard["role"], heard["epoch"]) == ("primary", 2)
    assert [node["node_id"] for node in race.second.leadership()["nodes"]] == ["b"]
