"""Who leads a project: by heartbeat, by selection, and after the end of a lease. Times are given, nothing waits."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import refused, told

from bloom.membridge.model import NodeRole, Project, canonical_id_of, version_key
from bloom.membridge.schemas import NewVersion, NodeHeartbeat
from bloom.membridge.service.leadership import Standing

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CID = canonical_id_of("project")


class Clock:
    """A project whose time is the test's."""

    def __init__(self, plane: Membridge) -> None:
        self._plane = plane
        self.now = T0

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def beat(self, node_id: str, **fields: Any) -> Standing:
        said = NodeHeartbeat(node_id=node_id, canonical_id=CID, **fields)
        return self._plane.run(self._plane.services.leadership.heartbeat(said, now=self.now))

    def select(self, node_id: str, lease_seconds: int = 3600) -> Project:
        select = self._plane.services.leadership.select(CID, node_id, lease_seconds, actor="admin", now=self.now)
        return self._plane.run(select)

    def push(self, node_id: str, epoch: int, sha256: str) -> None:
        pushed = NewVersion(node_id=node_id, epoch=epoch, sha256=sha256, key=version_key(CID, epoch, sha256), db_size=1)
        self._plane.run(self._plane.services.versions.push(CID, pushed, now=self.now))


@pytest.fixture
def clock(plane: Membridge) -> Clock:
    return Clock(plane)


def test_the_first_node_that_asks_leads_and_others_are_told_so(plane: Membridge) -> None:
    first, second = plane.heartbeat("a"), plane.heartbeat("b", obs_count=99)
    assert (first["ok"], first["role"], first["epoch"], second["role"]) == (True, "primary", 1, "secondary")
    assert second["lease_expires_at"] == first["lease_expires_at"] and second["primary_node_id"] == "a"
    assert 3_500_000 < second["lease_remaining_ms"] <= 3_600_000
    seen = plane.leadership()
    assert (seen["canonical_id"], seen["preferred_primary"], seen["node_count"]) == (CID, None, 2)
    assert {node["node_id"]: node["role"] for node in seen["nodes"]} == {"a": "primary", "b": "secondary"}
    lease = seen["lease"]
    assert lease["expires_at"] - lease["issued_at"] == 3_600_000 == lease["lease_seconds"] * 1000
    del lease["expires_at"], lease["issued_at"]
    assert lease == {
        "canonical_id": CID,
        "primary_node_id": "a",
        "lease_seconds": 3600,
        "epoch": 1,
        "policy": "primary_authoritative",
        "issued_by": "membridge",
    }


def test_a_node_that_does_not_ask_never_leads_and_its_role_is_unknown_while_nobody_has_led(clock: Clock) -> None:
    assert clock.beat("a", asks=False).role is NodeRole.UNKNOWN
    clock.forward(10_000)
    assert clock.beat("a", asks=False).role is NodeRole.UNKNOWN
    assert clock.beat("b").role is NodeRole.PRIMARY
    assert clock.beat("a", asks=False).role is NodeRole.SECONDARY


def test_the_heartbeats_of_the_holder_renew_its_lease_and_its_epoch_stays(clock: Clock) -> None:
    for _ in range(5):
        clock.forward(3000)
        standing = clock.beat("a")
        assert (standing.role, standing.project.epoch) == (NodeRole.PRIMARY, 1)
    clock.forward(3599)
    assert clock.beat("b").role is NodeRole.SECONDARY
    assert clock.beat("a", asks=False).role is NodeRole.PRIMARY, "it has not asked to go on, its lease still lasts"
    clock.forward(2)
    assert clock.beat("b").role is NodeRole.PRIMARY


def test_select_changes_the_primary_at_once_with_a_new_epoch_and_is_audited(plane: Membridge) -> None:
    plane.heartbeat("a")
    plane.heartbeat("b")
    answer = plane.select("b", 120)
    assert {name: answer[name] for name in ("ok", "canonical_id", "primary_node_id", "lease_seconds", "epoch")} == {
        "ok": True,
        "canonical_id": CID,
        "primary_node_id": "b",
        "lease_seconds": 120,
        "epoch": 2,
    }
    assert answer["detail"]
    assert (plane.heartbeat("a")["role"], plane.heartbeat("b")["role"]) == ("secondary", "primary")
    seen = plane.leadership()
    assert (seen["preferred_primary"], seen["lease"]["epoch"], seen["lease"]["lease_seconds"]) == ("b", 2, 120)
    entry = told(plane.get("/audit", entity_id=CID, limit=1))[0]
    assert (entry["action"], entry["actor"]) == ("leadership_selected", "admin")
    assert (entry["detail"]["old"], entry["detail"]["new"], entry["detail"]["epoch"]) == ("a", "b", 2)
    assert entry["detail"]["reason"] == "selected" and entry["detail"]["request_id"]


def test_selecting_who_leads_already_changes_the_lease_and_not_the_epoch(clock: Clock) -> None:
    clock.beat("a")
    project = clock.select("a", 60)
    assert project.lease is not None and project.preferred_primary == "a"
    assert (project.epoch, project.lease.expires_at) == (1, clock.now + timedelta(seconds=60))
    clock.forward(61)
    assert clock.select("a", 60).epoch == 2, "its lease had ended, and anything could have been in between"


@pytest.mark.parametrize("fields", [{}, {"lease_seconds": None}])
def test_a_selection_without_a_length_lasts_an_hour(plane: Membridge, fields: dict[str, Any]) -> None:
    plane.heartbeat("a")
    answer = told(plane.post(f"/projects/{CID}/leadership/select", {"primary_node_id": "a", **fields}))
    assert answer["lease_seconds"] == 3600 == plane.leadership()["lease"]["lease_seconds"]


def test_select_refuses_what_it_does_not_know(plane: Membridge) -> None:
    body = {"primary_node_id": "ghost"}
    assert refused(plane.post(f"/projects/{CID}/leadership/select", body), 404) == "project_not_found"
    plane.heartbeat("a")
    assert refused(plane.post(f"/projects/{CID}/leadership/select", body), 404) == "node_not_found"
    plane.heartbeat("ghost", "another project")
    assert refused(plane.post(f"/projects/{CID}/leadership/select", body), 404) == "node_not_found"
    assert plane.leadership()["lease"]["primary_node_id"] == "a"


def test_after_the_lease_the_preferred_primary_comes_first_if_it_is_heard_from(clock: Clock) -> None:
    clock.beat("a")
    clock.beat("b", obs_count=5)
    clock.select("a", 30)
    clock.forward(20)
    clock.beat("a", asks=False)
    clock.beat("b", obs_count=5)
    clock.forward(11)
    clock.beat("a", asks=False)
    assert clock.beat("b").project.epoch == 2, "the preferred one is there and does not ask"
    clock.select("a", 30)
    clock.forward(31)
    standing = clock.beat("a")
    assert (standing.role, standing.project.epoch) == (NodeRole.PRIMARY, 4)
    clock.forward(3601)
    assert clock.beat("b").role is NodeRole.PRIMARY, "it let its lease run out and was not heard of since"
    assert clock.beat("a").role is NodeRole.SECONDARY, "who is preferred takes nothing from who leads"


def test_after_the_lease_the_freshest_online_node_that_asks_gets_it_once(clock: Clock) -> None:
    clock.beat("gone")
    clock.push("gone", 1, "c" * 64)
    clock.forward(3590)
    clock.beat("few", obs_count=2)
    clock.beat("many", obs_count=50)
    clock.beat("current", obs_count=1, db_sha="c" * 64)
    clock.beat("shy", obs_count=99, db_sha="c" * 64, asks=False)
    clock.forward(11)
    for node in ("few", "many"):
        assert clock.beat(node).role is NodeRole.SECONDARY, "a fresher one is online"
    standing = clock.beat("current")
    assert (standing.role, standing.project.epoch) == (NodeRole.PRIMARY, 2)
    for node in ("few", "many", "gone"):
        standing = clock.beat(node)
        assert (standing.role, standing.project.epoch) == (NodeRole.SECONDARY, 2)


def test_a_fresher_node_that_falls_silent_is_waited_for_one_minute_at_most(clock: Clock) -> None:
    clock.beat("gone")
    clock.forward(3595)
    clock.beat("many", obs_count=50)
    clock.forward(10)
    assert clock.beat("few", obs_count=2).role is NodeRole.SECONDARY
    clock.forward(50)
    assert clock.beat("few").role is NodeRole.SECONDARY
    clock.forward(1)
    assert clock.beat("few").role is NodeRole.PRIMARY


def test_a_primary_that_let_a_short_lease_run_out_in_silence_is_not_waited_for(clock: Clock) -> None:
    clock.beat("a", obs_count=9)
    clock.beat("b", obs_count=1)
    clock.select("a", 5)
    clock.forward(6)
    standing = clock.beat("b")
    assert (standing.role, standing.project.epoch) == (NodeRole.PRIMARY, 2)


def test_among_equals_whoever_was_heard_from_last_comes_first(clock: Clock) -> None:
    clock.beat("gone")
    clock.forward(3595)
    clock.beat("z")
    clock.forward(10)
    assert clock.beat("a").role is NodeRole.PRIMARY


def test_an_expired_lease_leaves_nobody_in_the_lead(clock: Clock, plane: Membridge, database: FreshDatabase) -> None:
    plane.heartbeat("a")
    database.edit("update membridge.projects set expires_at = now() - interval '1 second'")
    assert [node["role"] for node in plane.leadership()["nodes"]] == ["secondary"]
    assert plane.heartbeat("b", asks=False)["role"] == "secondary"
    again = plane.heartbeat("a")
    assert (again["role"], again["epoch"]) == ("primary", 2)


def test_epochs_go_on_counting_when_a_project_is_deleted_and_made_again(plane: Membridge) -> None:
    plane.heartbeat("a")
    plane.heartbeat("b")
    assert plane.select("b")["epoch"] == 2
    assert plane.delete("/projects/project").status_code == 204
    assert plane.heartbeat("a")["epoch"] == 3
    assert plane.delete("/projects/project").status_code == 204
    told(plane.post("/projects", {"name": "project"}), 201)
    assert plane.leadership()["lease"] is None
    assert plane.heartbeat("b")["epoch"] == 4
