"""A node as an agent of Membridge: it says that it is there, how its memory stands, and runs the syncs it is asked for.

It runs beside the worker daemon (`bloom worker --membridge URL`). All connections go out from here, so a node behind NAT
works like any other. Nothing that goes wrong here touches the worker's tasks.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from bloom import __version__
from bloom.base.errors import BloomError
from bloom.membridge.schemas import AgentCapabilities, Command, NodeHeartbeat, RegisterAgent, ReportJob
from bloom.sync.agent_job import JobPace, run_job
from bloom.sync.database import fingerprint
from bloom.sync.errors import MembridgeRefused, SyncError
from bloom.sync.model import Keys
from bloom.sync.node import open_node
from bloom.sync.service_client import MembridgeClient
from bloom.sync.service_remote import addresses
from bloom.sync.settings import SyncSettings

log = logging.getLogger("bloom.agent")

T = TypeVar("T")


@dataclass(frozen=True)
class AgentPace:
    """How fast the agent goes, in seconds. Only tests change it."""

    seen_sec: float = 20
    """It says this often that it is there; after 60 s of silence it counts as offline (wire contract, 2.1)."""
    wait_sec: float = 25
    """How long a poll for commands may wait at Membridge."""
    retry_first_sec: float = 1
    retry_max_sec: float = 30
    """After an error the pause doubles from the first to the second."""
    job: JobPace = field(default_factory=JobPace)


@dataclass(frozen=True)
class AgentOptions:
    """One agent. `claude_cli`, `slots` and `labels` are those of the worker on this machine; labels None: as known."""

    url: str
    key: str = field(repr=False)
    name: str
    claude_cli: bool
    slots: int
    labels: tuple[str, ...] | None = None
    pace: AgentPace = AgentPace()


async def serve_agent(options: AgentOptions, settings: SyncSettings, stopping: asyncio.Event) -> None:
    """Be an agent until `stopping`; a sync that runs then is stopped and reported. Raises ConfigurationError only."""
    async with MembridgeClient(options.url, options.key) as client:
        agent = _Agent(options, settings, client, stopping)
        loops = [
            asyncio.create_task(agent.repeat("register", agent.register)),
            asyncio.create_task(agent.repeat("report how the memory stands", agent.beat)),
            asyncio.create_task(agent.repeat("ask for commands", agent.take, pause=False)),
        ]
        try:
            await asyncio.wait(loops)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)


class _Agent:
    def __init__(
        self, options: AgentOptions, settings: SyncSettings, client: MembridgeClient, stopping: asyncio.Event
    ) -> None:
        self._options, self._settings, self._client, self._stopping = options, settings, client, stopping
        self._pace = options.pace
        self._troubles: set[str] = set()
        self._sole = asyncio.Lock()

    async def repeat(self, what: str, work: Callable[[], Awaitable[None]], *, pause: bool = True) -> None:
        """Do `work` again and again until stopped. A trouble is logged when it begins and when it ends, not each time."""
        wait_sec = self._pace.retry_first_sec
        while not self._stopping.is_set():
            try:
                await work()
            except (BloomError, OSError) as error:
                if what not in self._troubles:
                    self._troubles.add(what)
                    told = error.message if isinstance(error, BloomError) else type(error).__name__
                    log.warning("cannot %s: %s; it is tried again", what, told)
                await self._pause(wait_sec)
                wait_sec = min(wait_sec * 2, self._pace.retry_max_sec)
            else:
                if what in self._troubles:
                    self._troubles.discard(what)
                    log.info("can %s again", what)
                wait_sec = self._pace.retry_first_sec
                if pause:
                    await self._pause(self._pace.seen_sec)

    async def register(self) -> None:
        """Register, or say again that this machine is there."""
        known = {"claude_cli": self._options.claude_cli, "max_concurrency": self._options.slots}
        labels = {} if self._options.labels is None else {"labels": list(self._options.labels)}
        capabilities = AgentCapabilities.model_validate({**known, **labels})
        agent = RegisterAgent(name=self._options.name, status="online", capabilities=capabilities)
        await self._unless_stopped(self._client.register_agent(agent))

    async def beat(self) -> None:
        """Tell how the memory of the node's project stands, and ask for its lead or renew it."""
        if self._settings.project is None:
            return
        observations, sha256 = await self._standing()
        keys = Keys(self._settings.project)
        beat = NodeHeartbeat(
            node_id=self._settings.node_id,
            canonical_id=keys.canonical_id,
            project_id=keys.project,
            obs_count=observations,
            db_sha=sha256,
            ip_addrs=addresses(),
            agent_version=__version__,
        )
        await self._unless_stopped(self._client.heartbeat(beat))

    async def take(self) -> None:
        """Wait for commands and run them. Each is handed out once, so from then on it is reported, whatever happens."""
        try:
            asking = self._client.commands(self._options.name, self._pace.wait_sec)
            commands = await self._unless_stopped(asking) or ()
        except MembridgeRefused as error:
            if error.status != 404:
                raise
            await self.register()  # not yet there, or removed meanwhile
            return
        await asyncio.gather(*(self._run(command) for command in commands))

    async def _run(self, command: Command) -> None:
        log.info("%s of %s: begun (job %s)", command.action, command.project, command.id)
        project = self._settings.project
        if project is not None and project != command.project:
            detail = f"this node carries the memory of {project!r} (CLAUDE_PROJECT_ID), not of {command.project!r}"
            done = ReportJob(status="failed", detail=detail)
        else:
            tell = partial(self._tell, command)
            while not await self._is_my_turn():
                await tell(ReportJob(status="running", detail="waits for another sync of this machine", progress=0.0))
            try:
                done = await run_job(_argv(command), self._environment(command), self._pace.job, self._stopping, tell)
            finally:
                self._sole.release()
        log.info("%s of %s: %s (job %s)", command.action, command.project, done.detail or done.status, command.id)
        await self._deliver(command, done)

    async def _is_my_turn(self) -> bool:
        """Whether the sync may begin: they share one database. Waits for that a while."""
        try:
            async with asyncio.timeout(self._pace.job.report_sec):
                return await self._sole.acquire()
        except TimeoutError:
            return False

    async def _tell(self, command: Command, report: ReportJob) -> None:
        """Report how a job is going. A lost report of that kind is no loss."""
        try:
            await self._client.report(self._options.name, command.id, report)
        except SyncError as error:
            log.debug("job %s: %s", command.id, error.message)

    async def _deliver(self, command: Command, report: ReportJob) -> None:
        """Report how a job ended; again while Membridge is away, for as long as jobs may take."""
        wait_sec, until = self._pace.retry_first_sec, asyncio.get_running_loop().time() + self._pace.job.job_sec
        while True:
            try:
                await self._client.report(self._options.name, command.id, report)
                return
            except SyncError as error:
                is_final = isinstance(error, MembridgeRefused) and error.status in (400, 404, 409)
                if is_final or self._stopping.is_set() or asyncio.get_running_loop().time() > until:
                    log.warning("the end of job %s could not be reported: %s", command.id, error.message)
                    return
            await self._pause(wait_sec)
            wait_sec = min(wait_sec * 2, self._pace.retry_max_sec)

    def _environment(self, command: Command) -> Mapping[str, str]:
        ours = {"MEMBRIDGE_URL": self._options.url, "MEMBRIDGE_ADMIN_KEY": self._options.key}
        return {**os.environ, **ours, "CLAUDE_PROJECT_ID": command.project}

    async def _standing(self) -> tuple[int | None, str | None]:
        """How many observations there are, and the hash that the last sync found, if the database is still as it was."""
        count = await asyncio.to_thread(self._count)
        known = None
        with contextlib.suppress(BloomError, OSError):
            async with open_node(self._settings) as node:
                known = node.state.snapshot
                if known is not None and known.fingerprint != fingerprint(node.files.database):
                    known = None
        return count, None if known is None else known.sha256

    def _count(self) -> int | None:
        try:
            with contextlib.closing(
                sqlite3.connect(f"{self._settings.database.as_uri()}?mode=ro", uri=True, timeout=1)
            ) as db:
                return db.execute("SELECT count(*) FROM observations").fetchone()[0]
        except sqlite3.Error:
            return None  # no database, or none of claude-mem

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`; None when the agent is stopped before."""
        doing, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            doing.cancel()
            stopped.cancel()
            await asyncio.wait({doing, stopped})

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass


def _argv(command: Command) -> list[str]:
    return [sys.executable, "-m", "bloom", "sync", command.action, *(["--dry-run"] if command.dryrun else [])]
