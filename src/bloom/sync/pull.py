"""Pull: the current version of the project becomes the local memory, alone or united with what is here."""

from dataclasses import dataclass, replace
from pathlib import Path

from bloom.base.errors import BloomError
from bloom.sync.bucket_remote import BucketRemote
from bloom.sync.copies import download
from bloom.sync.errors import BadDatabase, BadLease, BadPointer, MembridgeUnreachable, PullRefused
from bloom.sync.failpoints import reach
from bloom.sync.merge_report import MergeReport
from bloom.sync.model import MANIFEST_TABLES, Outcome, Role, Snapshot, Standing, Version
from bloom.sync.node import Node, now_ms, working
from bloom.sync.push import describe, how_to_push, repair_plain
from bloom.sync.remote import Remote
from bloom.sync.replacing import fetch, replace_local


@dataclass(frozen=True, slots=True)
class Situation:
    """What a pull finds. `warning`: the control plane did not answer, so this is what the bucket says.

    `bad_lease`, `bad_pointer`: what says who leads, or what is current, is damaged in the bucket.
    """

    remote: Remote
    standing: Standing
    current: Version | None
    warning: str | None = None
    bad_lease: BadLease | None = None
    bad_pointer: BadPointer | None = None

    @property
    def warnings(self) -> list[str]:
        """Everything that is not as it should be, in words."""
        told = (self.warning, self.bad_lease and self.bad_lease.message, self.bad_pointer and self.bad_pointer.message)
        return [each for each in told if each]


async def look(node: Node, local: Snapshot | None) -> Situation:
    """Who leads and what is current; from the bucket alone when the control plane cannot be reached."""
    remote = await node.remote(writes=False)
    try:
        return await _look_at(remote, local)
    except MembridgeUnreachable as error:
        bucket = BucketRemote(node.store, node.settings, conditions=False)
        warning = f"{error.message}; going by what was last published in the bucket"
        return replace(await _look_at(bucket, local), warning=warning)


async def _look_at(remote: Remote, local: Snapshot | None) -> Situation:
    bad_lease = bad_pointer = current = None
    try:
        standing = await remote.standing(local, asks=False)
    except BadLease as error:
        standing, bad_lease = Standing(Role.SECONDARY, None, None, None, "lease.json", error.message), error
    try:
        current = await remote.current()
    except BadPointer as error:
        bad_pointer = error
    return Situation(remote, standing, current, None, bad_lease, bad_pointer)


async def pull(node: Node, *, force: bool = False, dry_run: bool = False, merge: bool = False) -> Outcome:
    """Bring the current version into the local database.

    Outcomes: `pulled`, `merged`, `equal`, `nothing_new` (a merge, and the remote has nothing that is not here),
    `nothing_there`, `would_pull`. A copy of what was there is kept. `merge` unites both sides, on a primary too; `force`
    replaces a primary's database. Raises PullRefused, BadDatabase and other SyncErrors, BlobUnavailable, OSError: then the
    database is as it was.
    """
    async with working(node):
        local, is_broken = _local(node)
        merge = merge and local is not None and local.counts["tables"] > 0
        situation = await look(node, local)
        if situation.bad_pointer is not None:
            raise situation.bad_pointer
        warnings, current = situation.warnings, situation.current
        if current is None:
            return Outcome("nothing_there", "nothing has been pushed for this project yet", tuple(warnings))
        detail: dict[str, object] = {"sha256": current.sha256, "db_size": current.db_size, "epoch": current.epoch}
        if local is not None and node.is_equal(local, current.sha256):
            if not dry_run:
                node.remember_sync(current.sha256, local.sha256)
                warnings += await _repair(node, situation)
            return Outcome("equal", f"already equal: {describe(local)}", tuple(warnings), detail)
        if merge and current.sha256 == node.state.synced:
            next_step = how_to_push(node, situation.standing)
            return Outcome("nothing_new", f"nothing new there; {next_step}", tuple(warnings), detail)
        has_content = is_broken or (local is not None and any(local.counts[table] for table in MANIFEST_TABLES))
        may_replace = force or node.settings.allow_primary_pull or merge
        if situation.standing.role is Role.PRIMARY and has_content and not may_replace:
            raise PullRefused(
                "this node is the primary and its memory differs from the remote one; push it, or unite both with --merge "
                "(--force replaces it)"
            )
        if dry_run:
            return Outcome("would_pull", f"would pull {describe(current)}", tuple(warnings), detail)
        if local is not None and has_content and not merge and local.sha256 != node.state.synced_as:
            warnings.append("this node had changes that were never pushed; they are in the copy (--merge keeps them)")
        if is_broken:
            warnings.append("what was here is no sound database; it is kept as it was")
        # What did not change here since the last sync follows the remote as it is: there is nothing to unite.
        merge = merge and local is not None and local.sha256 != node.state.synced_as
        return await _bring(node, situation, current, warnings, detail, merge=merge)


async def _bring(
    node: Node,
    situation: Situation,
    current: Version,
    warnings: list[str],
    detail: dict[str, object],
    *,
    merge: bool,
) -> Outcome:
    fetched = await fetch(node, current)
    reports: list[MergeReport] = []
    base = await _base(node, situation.remote) if merge else None

    def unite(local: Path, remote: Path, result: Path) -> None:
        from bloom.sync.merge import merge_databases

        reports[:] = [merge_databases(local, remote, result, base)]

    kept = replace_local(node, unite if merge else None)
    report = reports[0] if reports else None
    if report is None:
        node.remember_sync(current.sha256, fetched.sha256)
    else:
        node.remember(synced=current.sha256, synced_as=None, synced_at_ms=now_ms(), intent=None)
    reach("pull.state_saved")
    after = node.snapshot() or fetched
    if report is not None and not report.differs_from_remote:
        node.remember_sync(current.sha256, after.sha256)
    warnings += await _repair(node, situation)
    await _tell(node, situation, after)
    message = f"{'pulled' if report is None else 'merged with'} {describe(replace(current, counts=fetched.counts))}"
    return Outcome(
        "pulled" if report is None else "merged",
        message if kept is None else f"{message}; what was here is kept at {kept}",
        tuple(warnings),
        {
            **detail,
            **after.counts,
            "backup": None if kept is None else str(kept),
            **({} if report is None else {"merge": report.as_json()}),
        },
        () if report is None else tuple(report.lines()),
    )


def _local(node: Node) -> tuple[Snapshot | None, bool]:
    """The local database, and whether there is something that is no sound one."""
    try:
        return node.snapshot(), False
    except BadDatabase:
        return None, True


async def _base(node: Node, remote: Remote) -> Path | None:
    """The version that both sides come from, as `files.base`; None where it is not at hand any more."""
    try:
        for version in await remote.history():
            if version.sha256 == node.state.synced:
                await download(node.store, version, node.files.base)
                return node.files.base
    except BloomError:
        pass  # a merge goes without it
    return None


async def _repair(node: Node, situation: Situation) -> list[str]:
    return [] if situation.warning is not None else await repair_plain(node, situation.remote)


async def _tell(node: Node, situation: Situation, local: Snapshot) -> None:
    """Let the control plane know at once what this node has now: the freshest node is the next to lead."""
    if node.service is not None and situation.warning is None:
        try:
            await situation.remote.standing(local, asks=False)
        except MembridgeUnreachable:
            return  # the next command tells it
