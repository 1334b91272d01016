"""Random histories of heartbeats, selections, pushes, deletions and passing time, by two replicas in turn.

Whatever happens: no epoch has two primaries, no epoch comes back, no lease is taken away but by a selection, nobody who
does not lead moves the pointer, and as long as somebody online asks somebody leads.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.membridge.conftest import StartPlane
from tests.real_membridge import Membridge
from tests.real_postgres import FreshDatabase

from bloom.base.errors import Conflict, NotFound
from bloom.membridge.model import NodeRole, Project, canonical_id_of, version_key
from bloom.membridge.schemas import NewVersion, NodeHeartbeat
from bloom.membridge.service.leadership import Leadership, Standing

CID = canonical_id_of("project")
NODES = st.sampled_from("abc")
LENGTHS = st.sampled_from([1, 30, 61, 3600])


class Machine(RuleBasedStateMachine):
    """Drives the services. The database is emptied before each history."""

    planes: tuple[Membridge, Membridge]
    database: FreshDatabase

    def __init__(self) -> None:
        super().__init__()
        self.database.edit("truncate membridge.projects, membridge.terms, membridge.audit_log cascade")
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.calls = 0
        self.led: dict[int, str] = {}
        self.epoch = 0
        self.lease: tuple[int, str, datetime] | None = None
        """Epoch, holder and end of the lease that was told last."""
        self.heard: dict[str, tuple[datetime, bool]] = {}
        """When each node was heard from, and whether it asked."""
        self.current: str | None = None
        self.pushed = 0

    @property
    def plane(self) -> Membridge:
        self.calls += 1
        return self.planes[self.calls % 2]

    def see(self, project: Project, *, may_replace: bool = False) -> None:
        """Compare what was told with what was told before."""
        assert project.epoch >= self.epoch
        self.epoch = project.epoch
        if project.lease is None:
            return
        lease = project.lease
        assert lease.epoch == project.epoch
        assert self.led.setdefault(lease.epoch, lease.node_id) == lease.node_id, "two primaries of one epoch"
        if self.lease is not None and not may_replace and self.now < self.lease[2]:
            assert (lease.epoch, lease.node_id) == self.lease[:2], "a lease that lasts was taken away"
        self.lease = (lease.epoch, lease.node_id, lease.expires_at)

    def beat(self, node: str, **fields: Any) -> Standing:
        plane = self.plane
        said = NodeHeartbeat(node_id=node, canonical_id=CID, **fields)
        standing = plane.run(plane.services.leadership.heartbeat(said, now=self.now))
        self.heard[node] = (self.now, said.asks)
        held = self.lease is not None and self.now < self.lease[2]
        self.see(standing.project)
        assert (standing.role is NodeRole.PRIMARY) == (standing.project.holder(self.now) == node)
        if not held and standing.role is NodeRole.PRIMARY:
            assert said.asks
        return standing

    @rule(node=NODES, obs=st.none() | st.integers(0, 3), asks=st.booleans() | st.just(True))
    def a_node_is_heard_from(self, node: str, obs: int | None, asks: bool) -> None:
        self.beat(node, obs_count=obs, asks=asks)

    @rule(seconds=st.sampled_from([1, 20, 59, 61, 3601]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.heard)
    @rule(node=NODES, seconds=LENGTHS)
    def a_person_selects(self, node: str, seconds: int) -> None:
        plane = self.plane
        try:
            project = plane.run(plane.services.leadership.select(CID, node, seconds, actor="admin", now=self.now))
        except NotFound:
            assert node not in self.heard
            return
        self.see(project, may_replace=True)
        assert project.holder(self.now) == node == project.preferred_primary

    @precondition(lambda self: self.heard)
    @rule(node=NODES, behind=st.sampled_from([0, 0, 0, 1]), based_on_current=st.booleans())
    def a_node_pushes(self, node: str, behind: int, based_on_current: bool) -> None:
        self.pushed += 1
        epoch = max(self.epoch - behind, 0)
        based_on = self.current if based_on_current else None
        sha = f"{self.pushed:064x}"
        key = version_key(CID, epoch, sha)
        pushed = NewVersion(node_id=node, epoch=epoch, sha256=sha, key=key, db_size=1, based_on=based_on)
        leads = self.lease is not None and self.lease[:2] == (epoch, node) and self.now < self.lease[2]
        plane = self.plane
        try:
            plane.run(plane.services.versions.push(CID, pushed, now=self.now))
        except Conflict as refusal:
            assert refusal.code == ("remote_moved" if leads else "stale_epoch")
            return
        assert leads and self.current in (None, based_on)
        self.current = pushed.sha256

    @precondition(lambda self: self.heard)
    @rule()
    def the_project_is_deleted(self) -> None:
        plane = self.plane
        plane.run(plane.services.projects.delete("project", actor="admin", now=self.now))
        self.heard, self.lease, self.current = {}, None, None

    @precondition(lambda self: self.heard)
    @rule()
    def everybody_asks_and_somebody_leads(self) -> None:
        standings = [self.beat(node) for node in "abc" for _ in range(2)]
        assert standings[-1].project.holder(self.now) is not None
        assert sum(self.beat(node).role is NodeRole.PRIMARY for node in "abc") == 1

    @precondition(lambda self: self.heard)
    @rule(node=NODES)
    def whoever_asks_alone_leads_in_the_end(self, node: str) -> None:
        for _ in range(4):
            self.now += timedelta(seconds=1201)
            standing = self.beat(node)
        assert standing.role is NodeRole.PRIMARY  # pyright: ignore[reportPossiblyUnboundVariable]

    @invariant()
    def what_is_told_is_what_was_told(self) -> None:
        if not self.heard:
            return
        plane = self.plane
        seen: Leadership = plane.run(plane.services.leadership.look(CID, now=self.now))
        self.see(seen.project)
        roles = [seen.project.role_of(node.node_id, self.now) for node in seen.nodes]
        assert roles.count(NodeRole.PRIMARY) <= 1
        assert seen.project.current_sha256 == self.current
        assert {node.node_id: (node.last_seen, node.asks) for node in seen.nodes} == self.heard
        terms = self.database.rows("select epoch, node_id from membridge.terms order by epoch")
        assert {row["epoch"]: row["node_id"] for row in terms} == self.led
        assert [row["epoch"] for row in terms] == list(range(1, self.epoch + 1))


def test_random_histories_keep_what_leadership_promises(start_plane: StartPlane, database: FreshDatabase) -> None:
    Machine.planes = (start_plane(), start_plane())
    Machine.database = database
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
