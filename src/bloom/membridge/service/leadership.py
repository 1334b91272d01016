"""Who leads a project: heartbeats, which ask for leadership and renew it, and selection by a person.

Whatever decides does so under the lock of the project, by the database's time, read after the lock was had.
"""

from dataclasses import dataclass
from datetime import datetime

from bloom.base.errors import NotFound
from bloom.db.hub import notify
from bloom.db.pool import Connection, Database
from bloom.membridge.model import (
    GrantReason,
    MembridgeAction,
    Node,
    NodeRole,
    Project,
    elect,
)
from bloom.membridge.schemas import NodeHeartbeat
from bloom.membridge.service.refusals import project_not_found
from bloom.membridge.store import audit, leadership, projects
from bloom.membridge.topics import LEADERSHIP


@dataclass(frozen=True, slots=True)
class Leadership:
    """A project, its nodes, and the time at which this was so."""

    project: Project
    nodes: list[Node]
    now: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """What a node is after its heartbeat."""

    project: Project
    role: NodeRole
    now: datetime


class LeadershipService:
    """Use cases of leadership. `lease_seconds` is how long a lease lasts that nobody gave another length."""

    def __init__(self, database: Database, *, lease_seconds: int) -> None:
        self._database = database
        self._lease_seconds = lease_seconds

    async def look(self, canonical_id: str, *, now: datetime | None = None) -> Leadership:
        """Who leads, and the nodes. Raises NotFound."""
        async with self._database.transaction() as connection:
            project = await projects.by_id(connection, canonical_id)
            if project is None:
                raise project_not_found()
            nodes = await projects.nodes(connection, canonical_id)
            return Leadership(project, nodes, await projects.clock(connection, now))

    async def heartbeat(self, said: NodeHeartbeat, *, now: datetime | None = None) -> Standing:
        """Note that the node lives, renew its lease if it holds it, and let it lead if nobody does and it is its turn."""
        async with self._database.transaction() as connection:
            project, is_new = await projects.heard_of(connection, said.canonical_id, said.project_id, now=now)
            moment = await projects.clock(connection, now)
            if is_new:
                await audit.add(
                    connection,
                    MembridgeAction.PROJECT_CREATED,
                    "project",
                    said.canonical_id,
                    actor=_node_actor(said.node_id),
                    now=moment,
                    name=project.name,
                )
            await projects.upsert_node(connection, said, now=moment)
            if said.asks:
                project = await self._ask(connection, project, said.node_id, moment)
            return Standing(project, project.role_of(said.node_id, moment), moment)

    async def _ask(self, connection: Connection, project: Project, node_id: str, now: datetime) -> Project:
        holder = project.holder(now)
        if holder == node_id:
            return await leadership.renew(connection, project.canonical_id, now=now)
        if holder is not None:
            return project
        chosen = elect(project, await projects.nodes(connection, project.canonical_id), now)
        # Whoever else it is will ask within a minute, or be offline by then; granting it now could mean a dead node.
        if chosen is None or chosen[0].node_id != node_id:
            return project
        return await self._begin_term(
            connection,
            project,
            node_id,
            action=MembridgeAction.LEADERSHIP_GRANTED,
            reason=chosen[1],
            lease_seconds=self._lease_seconds,
            issued_by="membridge",
            actor=_node_actor(node_id),
            now=now,
        )

    async def select(
        self,
        canonical_id: str,
        node_id: str,
        lease_seconds: int,
        *,
        actor: str,
        now: datetime | None = None,
    ) -> Project:
        """Let the node lead from now on, and come first whenever the lease has ended.

        A new epoch begins unless it leads already: then its lease gets the new length. Raises NotFound for an unknown
        project or node.
        """
        async with self._database.transaction() as connection:
            project = await projects.lock(connection, canonical_id)
            if project is None:
                raise project_not_found()
            moment = await projects.clock(connection, now)
            nodes = await projects.nodes(connection, canonical_id)
            if not any(node.node_id == node_id for node in nodes):
                raise NotFound(
                    f"No node {node_id!r} of this project has been heard from; it has to send a heartbeat first.",
                    code="node_not_found",
                )
            if project.holder(moment) != node_id:
                return await self._begin_term(
                    connection,
                    project,
                    node_id,
                    action=MembridgeAction.LEADERSHIP_SELECTED,
                    reason=GrantReason.SELECTED,
                    lease_seconds=lease_seconds,
                    issued_by=actor,
                    actor=actor,
                    now=moment,
                )
            renewed = await leadership.renew(
                connection,
                canonical_id,
                lease_seconds=lease_seconds,
                issued_by=actor,
                preferred=node_id,
                now=moment,
            )
            await _audit_change(
                connection, MembridgeAction.LEADERSHIP_SELECTED, project, renewed, "renewed", actor, moment
            )
            await notify(connection, [LEADERSHIP])
            return renewed

    async def _begin_term(
        self,
        connection: Connection,
        project: Project,
        node_id: str,
        *,
        action: MembridgeAction,
        reason: GrantReason,
        lease_seconds: int,
        issued_by: str,
        actor: str,
        now: datetime,
    ) -> Project:
        begun = await leadership.begin_term(
            connection,
            project.canonical_id,
            node_id,
            reason=reason,
            lease_seconds=lease_seconds,
            issued_by=issued_by,
            preferred=node_id if reason is GrantReason.SELECTED else None,
            now=now,
        )
        await _audit_change(connection, action, project, begun, reason, actor, now)
        await notify(connection, [LEADERSHIP])
        return begun


async def _audit_change(
    connection: Connection,
    action: MembridgeAction,
    before: Project,
    after: Project,
    reason: str,
    actor: str,
    now: datetime,
) -> None:
    await audit.add(
        connection,
        action,
        "project",
        before.canonical_id,
        actor=actor,
        now=now,
        old=before.holder(now),
        new=after.holder(now),
        epoch=after.epoch,
        lease_seconds=None if after.lease is None else after.lease.lease_seconds,
        reason=reason,
    )


def _node_actor(node_id: str) -> str:
    return f"node:{node_id}"
