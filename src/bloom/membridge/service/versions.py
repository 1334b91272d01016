"""The versions of a project's memory, and the one pointer to the current one, which only the primary moves."""

from datetime import datetime

from bloom.base.errors import Conflict, InvalidInput
from bloom.db.pool import Connection, Database
from bloom.membridge.model import MembridgeAction, Project, Version, version_key
from bloom.membridge.schemas import NewVersion
from bloom.membridge.service.refusals import project_not_found, stale_epoch, version_not_found
from bloom.membridge.store import audit, projects, versions


class VersionService:
    """Use cases of versions. Each change runs under the lock of the project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, canonical_id: str, *, limit: int) -> list[Version]:
        """The newest versions. Raises NotFound for an unknown project."""
        async with self._database.transaction() as connection:
            if await projects.by_id(connection, canonical_id) is None:
                raise project_not_found()
            return await versions.page(connection, canonical_id, limit=limit)

    async def current(self, canonical_id: str) -> Version:
        """The current version. Raises NotFound: `project_not_found`, or `version_not_found` when nothing was pushed yet."""
        async with self._database.transaction() as connection:
            project = await projects.by_id(connection, canonical_id)
            if project is None:
                raise project_not_found()
            if project.current_sha256 is None:
                raise version_not_found()
            return await _known(connection, canonical_id, project.current_sha256)

    async def push(self, canonical_id: str, pushed: NewVersion, *, now: datetime | None = None) -> tuple[Version, bool]:
        """Make a version that is in the store the current one; False when it was that before.

        Raises InvalidInput for a key that is not the version's own, and Conflict: `stale_epoch` unless the pusher leads now,
        for the epoch it names; `remote_moved` when the current version is not the one its own is based on, unless `force`.
        """
        key = version_key(canonical_id, pushed.epoch, pushed.sha256)
        # What a plain client pushed past the leader was kept in epoch 0; restored, it lies where it is.
        if pushed.key not in (key, version_key(canonical_id, 0, pushed.sha256)):
            raise InvalidInput("This is not the key of that version.", fields={"key": [f"Must be {key}"]})
        async with self._database.transaction() as connection:
            project, moment = await _lock(connection, canonical_id, now)
            if project.current_sha256 == pushed.sha256:
                return await _known(connection, canonical_id, pushed.sha256), False
            _require_lead(project, pushed.node_id, pushed.epoch, moment)
            if project.current_sha256 not in (None, pushed.based_on) and not pushed.force:
                raise Conflict(
                    "The memory of this project has moved on since this node synced with it; pull first, or force.",
                    code="remote_moved",
                    current=project.current_sha256,
                )
            await versions.upsert(connection, canonical_id, pushed, now=moment)
            await versions.set_current(connection, canonical_id, pushed.sha256)
            await projects.set_node_sha(connection, canonical_id, pushed.node_id, pushed.sha256)
            await _audit(
                connection,
                MembridgeAction.VERSION_PUSHED,
                project,
                pushed.sha256,
                node_id=pushed.node_id,
                forced=pushed.force and project.current_sha256 not in (None, pushed.based_on),
                now=moment,
            )
            return await _known(connection, canonical_id, pushed.sha256), True

    async def restore(
        self, canonical_id: str, sha256: str, *, node_id: str, epoch: int, now: datetime | None = None
    ) -> Version:
        """Make an old version the current one again. Raises NotFound, and Conflict (`stale_epoch`) as a push does."""
        async with self._database.transaction() as connection:
            project, moment = await _lock(connection, canonical_id, now)
            _require_lead(project, node_id, epoch, moment)
            wanted = await _known(connection, canonical_id, sha256)
            if wanted.current:
                return wanted
            await versions.set_current(connection, canonical_id, sha256)
            await _audit(
                connection, MembridgeAction.VERSION_RESTORED, project, sha256, node_id=node_id, forced=False, now=moment
            )
            return await _known(connection, canonical_id, sha256)

    async def delete(self, canonical_id: str, sha256: str, *, actor: str, now: datetime | None = None) -> None:
        """Forget a version that was pruned. Raises NotFound, and Conflict (`version_is_current`) for the current one."""
        async with self._database.transaction() as connection:
            project, moment = await _lock(connection, canonical_id, now)
            if not await versions.delete(connection, canonical_id, sha256):
                await _known(connection, canonical_id, sha256)
                raise Conflict("The current version cannot be deleted.", code="version_is_current")
            await audit.add(
                connection,
                MembridgeAction.VERSION_DELETED,
                "project",
                project.canonical_id,
                actor=actor,
                now=moment,
                sha256=sha256,
            )


async def _lock(connection: Connection, canonical_id: str, now: datetime | None) -> tuple[Project, datetime]:
    project = await projects.lock(connection, canonical_id)
    if project is None:
        raise project_not_found()
    return project, await projects.clock(connection, now)


async def _known(connection: Connection, canonical_id: str, sha256: str) -> Version:
    version = await versions.by_sha(connection, canonical_id, sha256)
    if version is None:
        raise version_not_found()
    return version


def _require_lead(project: Project, node_id: str, epoch: int, now: datetime) -> None:
    if project.holder(now) != node_id or project.epoch != epoch:
        raise stale_epoch(project)


async def _audit(
    connection: Connection,
    action: MembridgeAction,
    project: Project,
    sha256: str,
    *,
    node_id: str,
    forced: bool,
    now: datetime,
) -> None:
    await audit.add(
        connection,
        action,
        "project",
        project.canonical_id,
        actor=f"node:{node_id}",
        now=now,
        old=project.current_sha256,
        new=sha256,
        epoch=project.epoch,
        forced=forced,
    )
