"""What pages show of Membridge and order there. The key goes no further than the connection.

Many pages may look at the same: a process asks Membridge for a thing at most every two seconds.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlencode

from pydantic import TypeAdapter, ValidationError

from bloom.base.errors import BloomError, NotFound, Upstream
from bloom.upstream.client import Answer
from bloom.upstream.schemas import SelectPrimary
from bloom.upstream.service import ConnectionService
from bloom.upstream.told import Direction, Leadership, MemoryVersion, Ordered, Project, SyncAgent, SyncJob

KEPT_SEC = 2.0
PATIENCE_SEC = 4.0
"""So long a page waits for an answer; the question goes on for those who look next."""

MOST_PROJECTS = 50
"""Of more the leaders are not asked for in a list."""

MOST_JOBS = 20
MOST_VERSIONS = 50
_AT_ONCE = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProjectState:
    """A project and, unless it could not be told, who leads it."""

    project: Project
    leadership: Leadership | None


class MembridgeService:
    """Projects, nodes, versions and sync jobs of the Membridge that is connected.

    Every call raises Upstream with the code that `ConnectionService` or Membridge itself gives (`project_not_found` is a
    NotFound).
    """

    def __init__(self, connections: ConnectionService) -> None:
        self._connections = connections
        self._asked: dict[str, tuple[float, asyncio.Task[Answer]]] = {}

    async def projects(self) -> list[ProjectState]:
        """Every project, by name, with its leader."""
        found = await self._get("/projects", TypeAdapter(list[Project]))
        gate = asyncio.Semaphore(_AT_ONCE)

        async def look(project: Project) -> ProjectState:
            async with gate:
                with suppress(BloomError):
                    return ProjectState(project, await self.leadership(project.canonical_id))
            return ProjectState(project, None)

        shown = await asyncio.gather(*(look(project) for project in found[:MOST_PROJECTS]))
        return [*shown, *(ProjectState(project, None) for project in found[MOST_PROJECTS:])]

    async def project(self, canonical_id: str) -> Project:
        """One project. Raises NotFound (`project_not_found`)."""
        found = await self._get("/projects", TypeAdapter(list[Project]))
        for project in found:
            if project.canonical_id == canonical_id:
                return project
        raise NotFound("There is no such project.", code="project_not_found")

    async def leadership(self, canonical_id: str) -> Leadership:
        """Who leads a project, and its nodes."""
        return await self._get(f"/projects/{quote(canonical_id, safe='')}/leadership", TypeAdapter(Leadership))

    async def agents(self) -> list[SyncAgent]:
        """The machines that run sync jobs."""
        return await self._get("/agents", TypeAdapter(list[SyncAgent]))

    async def jobs(self, project: Project) -> list[SyncJob]:
        """The newest sync jobs of a project; none where this Membridge tells of none."""
        query = urlencode({"project": project.name, "limit": MOST_JOBS})
        return await self._get_or_none(f"/jobs?{query}", TypeAdapter(list[SyncJob]))

    async def versions(self, canonical_id: str) -> list[MemoryVersion]:
        """The newest memory versions of a project; none where this Membridge keeps none."""
        path = f"/projects/{quote(canonical_id, safe='')}/versions?limit={MOST_VERSIONS}"
        return await self._get_or_none(path, TypeAdapter(list[MemoryVersion]))

    async def promote(self, canonical_id: str, request: SelectPrimary, *, actor: str) -> None:
        """Make a node the primary of a project at once."""
        answer = await self._connections.promote(canonical_id, request, actor=actor)
        self._asked.clear()
        _require(answer)

    async def sync(self, direction: Direction, project: Project, agent: str, *, dryrun: bool, actor: str) -> Ordered:
        """Let an agent push or pull a project's memory. Raises Upstream also where the agent said that it failed."""
        answer = await self._connections.sync(direction, project.name, agent, dryrun=dryrun, actor=actor)
        self._asked.clear()
        _require(answer)
        return _read(answer, TypeAdapter(Ordered))

    async def _get(self, path: str, kind: TypeAdapter[T]) -> T:
        now = time.monotonic()
        self._asked = {key: asked for key, asked in self._asked.items() if now - asked[0] < KEPT_SEC}
        if path not in self._asked:
            # Not tried again: a page that lives asks again by itself, and a person by reloading.
            asking = asyncio.create_task(self._connections.ask(path, retries=0), name="membridge-page")
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())
            self._asked[path] = (now, asking)
        try:
            async with asyncio.timeout(PATIENCE_SEC):
                answer = await asyncio.shield(self._asked[path][1])
        except TimeoutError:
            raise Upstream(
                f"Membridge did not answer within {PATIENCE_SEC:g} seconds.", code="membridge_timeout"
            ) from None
        _require(answer)
        return _read(answer, kind)

    async def _get_or_none(self, path: str, kind: TypeAdapter[list[T]]) -> list[T]:
        try:
            return await self._get(path, kind)
        except NotFound as error:
            if error.code == "project_not_found":
                raise
            return []


def _require(answer: Answer) -> None:
    if answer.is_success:
        return
    code, message = answer.refusal
    if answer.status == 404:
        raise NotFound(message, code=code)
    raise Upstream(message, code=code)


def _read(answer: Answer, kind: TypeAdapter[T]) -> T:
    try:
        return kind.validate_python(answer.value)
    except ValidationError:
        raise Upstream("Membridge answered with something that is not understood.", code="membridge_not_json") from None


def names_of(agents: Sequence[SyncAgent]) -> list[str]:
    """Their names, those that are there first."""
    return [agent.name for agent in sorted(agents, key=lambda agent: (agent.status == "offline", agent.name))]
