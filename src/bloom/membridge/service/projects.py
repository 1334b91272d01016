"""Projects, agents and the audit log: what is made, listed and deleted."""

from datetime import datetime

from bloom.base.errors import Conflict
from bloom.db.pool import Database
from bloom.membridge.model import Agent, MembridgeAction, MembridgeAuditEntry, Project, canonical_id_of
from bloom.membridge.schemas import RegisterAgent
from bloom.membridge.service.refusals import agent_not_found, project_not_found
from bloom.membridge.store import agents, audit, jobs, projects


class ProjectService:
    """Use cases of projects and of the registry of agents."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Project]:
        """Every project, by name."""
        async with self._database.transaction() as connection:
            return await projects.all_projects(connection)

    async def create(self, name: str, *, actor: str, now: datetime | None = None) -> Project:
        """Make a project. Raises Conflict when there is one of this name, be it from a heartbeat."""
        canonical_id = canonical_id_of(name)
        async with self._database.transaction() as connection:
            project = await projects.insert(connection, canonical_id, name, now=now)
            if project is None:
                raise Conflict(f"There is a project named {name!r} already.", code="project_exists")
            await audit.add(
                connection, MembridgeAction.PROJECT_CREATED, "project", canonical_id, actor=actor, now=now, name=name
            )
            return project

    async def delete(self, name: str, *, actor: str, now: datetime | None = None) -> None:
        """Delete the project of this name (or id), and its nodes, versions and jobs. What is in the bucket stays, and so do
        its epochs: one made under the same name goes on counting. Raises NotFound.
        """
        async with self._database.transaction() as connection:
            project = await projects.lock_named(connection, name)
            if project is None:
                raise project_not_found()
            deleted = await projects.delete(connection, project.canonical_id)
            await audit.add(
                connection,
                MembridgeAction.PROJECT_DELETED,
                "project",
                project.canonical_id,
                actor=actor,
                now=now,
                name=project.name,
                epoch=project.epoch,
                deleted=deleted,
            )

    async def agents(self, *, now: datetime | None = None) -> list[Agent]:
        """Every agent, by name."""
        async with self._database.transaction() as connection:
            return await agents.all_agents(connection, now=now)

    async def register_agent(self, request: RegisterAgent, *, now: datetime | None = None) -> tuple[Agent, bool]:
        """Insert or update an agent by its name; True when it is new."""
        async with self._database.transaction() as connection:
            return await agents.upsert(connection, request, now=now)

    async def delete_agent(self, name: str, *, actor: str, now: datetime | None = None) -> None:
        """Delete an agent; its unfinished jobs fail. Raises NotFound."""
        async with self._database.transaction() as connection:
            if not await agents.delete(connection, name):
                raise agent_not_found(name)
            await jobs.fail_of_agent(connection, name, now=now)
            await audit.add(connection, MembridgeAction.AGENT_DELETED, "agent", name, actor=actor, now=now)

    async def counts(self) -> dict[str, int]:
        """How many `projects` and `agents` there are."""
        async with self._database.transaction() as connection:
            return await projects.counts(connection)

    async def audit(self, *, entity_id: str | None, before: int | None, limit: int) -> list[MembridgeAuditEntry]:
        """Up to `limit` entries of the audit log older than `before`, newest first."""
        async with self._database.transaction() as connection:
            return await audit.page(connection, entity_id=entity_id, before=before, limit=limit)
