"""The whole import: batch after batch, each in a transaction of its own, so that a run that was cut goes on where it was."""

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from bloom.artifacts import store as artifacts
from bloom.artifacts.model import Placement
from bloom.artifacts.service import CUT_CHARS, ArtifactService
from bloom.base.errors import ConfigurationError
from bloom.base.ids import ArtifactId, TaskId
from bloom.blobs.errors import BlobMissing
from bloom.blobs.interface import BlobStore
from bloom.db.pool import Connection, Database, as_json, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.predecessor.plan import Found, Planned, Success, plan, problem_of, success_of
from bloom.predecessor.report import Report
from bloom.predecessor.rows import Row, fields, moment, text, texts, whole
from bloom.predecessor.source import Source
from bloom.upstream import store as upstream
from bloom.upstream.address import DEFAULT_URL, check_key, check_url, origin_of
from bloom.upstream.sealing import Sealer

ACTOR = "system:predecessor"
_SQL = load_queries("bloom.predecessor")
_MINIO = "minio://"


@dataclass(frozen=True, slots=True)
class Content:
    """Where the output of a task stands here. `output` is what its result keeps of it, where the artifact is elsewhere."""

    placement: Placement
    output: str | None
    cut: bool


class Import:
    """`blobs` is where the predecessor's objects are, and stay; `bucket` its name. Without `write` it only reports."""

    def __init__(
        self, database: Database, blobs: BlobStore | None, bucket: str, sealer: Sealer, *, write: bool
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._bucket = bucket
        self._sealer = sealer
        self._write = write
        self._places = ArtifactService(database, None)
        self.report = Report()

    async def run(self) -> Report:
        """Take what is not here yet. Raises ConfigurationError when there is nothing of the predecessor, or when its object
        store is not the one that is set; Unavailable, BlobUnavailable: what was taken by then stays.
        """
        async with AsyncExitStack() as stack:
            reading = await stack.enter_async_context(self._database.transaction())
            source = Source(reading, self.report)
            await source.open()
            await self._require_store(source)
            known = await self._known()
            await self._take_workers(await source.all("workers"))
            await self._take_settings(await source.all("runtime_settings"))
            if source.has("audit_logs"):
                await self._take_entries()
            async for batch in source.tasks():
                await self._take_tasks(batch, known)
            await source.note_orphans()
        return self.report

    async def _require_store(self, source: Source) -> None:
        for bucket, count in (await source.buckets()).items():
            if self._blobs is None:
                raise ConfigurationError(
                    f"{count} artifacts are in the bucket {bucket} of an object store that is not set here: set "
                    "MINIO_ENDPOINT, MINIO_ACCESS_KEY, MINIO_SECRET_KEY and MINIO_ARTIFACT_BUCKET as the predecessor has them"
                )
            if bucket != self._bucket:
                raise ConfigurationError(
                    f"{count} artifacts are in the bucket {bucket}: set MINIO_ARTIFACT_BUCKET={bucket}"
                )

    async def _known(self) -> set[str]:
        async with self._database.transaction() as connection:
            return {row["id"] for row in await fetch_all(connection, _SQL["known"], {})}

    async def _take_workers(self, rows: Sequence[Row]) -> None:
        amount = self.report.amounts["workers"]
        amount.found = len(rows)
        usable = [worker for row in rows if (worker := _worker(row)) is not None]
        if len(usable) < len(rows):
            self.report.note("workers", "not taken: it has no id", (), rows=len(rows) - len(usable))
        async with self._database.transaction() as connection:
            if self._write:
                params = {"rows": as_json(usable), "actor": ACTOR}
                amount.taken = len(await fetch_all(connection, _SQL["insert_workers"], params))
            else:
                ids = {"ids": [worker["id"] for worker in usable]}
                amount.taken = len(usable) - len(await fetch_all(connection, _SQL["known_workers"], ids))
        amount.there = len(usable) - amount.taken

    async def _take_settings(self, rows: Sequence[Row]) -> None:
        """The connection to Membridge, where none is saved here; the key is sealed, and told nowhere."""
        values: dict[str, Any] = {}
        for row in rows:
            values |= {str(row["key"]): row.get("value")} if "key" in row else dict(row)
        amount = self.report.amounts["runtime_settings"]
        amount.found = len(rows)
        url, key = (
            text(values, "membridge_server_url"),
            text(values, "membridge_admin_key") or text(values, "admin_key"),
        )
        ours = {"membridge_server_url", "membridge_admin_key", "admin_key"}
        if others := sorted(values.keys() - ours - {"id", "created_at", "updated_at"}):
            self.report.note("runtime_settings", "not taken: there is no such setting here", others)
        if url is None and key is None:
            return
        try:
            url = check_url(_unquoted(url) or DEFAULT_URL)
            key = None if key is None else check_key(_unquoted(key))
        except ValueError:
            self.report.note("runtime_settings", "not taken: no usable address or key", sorted(values.keys() & ours))
            return
        async with self._database.transaction() as connection:
            if (await upstream.read(connection, lock=self._write)).revision:
                amount.there = len(rows)
                return
            amount.taken = len(values.keys() & ours)
            if self._write:
                sealed = None if key is None else await asyncio.to_thread(self._sealer.seal, key, origin_of(url))
                await upstream.save(connection, url=url, admin_key=sealed, key_changed=key is not None, actor=ACTOR)

    async def _take_entries(self) -> None:
        amount = self.report.amounts["audit_logs"]
        async with self._database.transaction() as connection:
            row = await fetch_one(connection, _SQL["count_entries"], {})
            assert row is not None  # noqa: S101
            amount.found, amount.there = row["count"], row["taken"]
            if self._write:
                amount.taken = (await connection.execute(_SQL["insert_entries"], {})).rowcount
            else:
                amount.taken = max(0, amount.found - amount.there)

    async def _take_tasks(self, batch: Sequence[Found], known: set[str]) -> None:
        planned: list[Planned] = []
        chunks: list[tuple[TaskId, ArtifactId, Placement]] = []
        for found in batch:
            task_id = str(found.task["id"])
            is_known = task_id in known
            problem = problem_of(found.task)
            if problem is not None:
                self.report.note("llm_tasks", problem, [task_id])
            rows: Planned | None = None
            if problem is None and not is_known:
                success, content = await self._content(found)
                rows = plan(found, success, self.report.note)
                planned.append(rows)
                if content is not None and rows.artifact is not None:
                    _place(rows, content)
                    if content.placement.chunks:
                        chunks.append((TaskId(task_id), ArtifactId(rows.artifact["id"]), content.placement))
            self._count(found, rows, is_known=is_known)
        if self._write and planned:
            await self._insert(planned, chunks)

    def _count(self, found: Found, rows: Planned | None, *, is_known: bool) -> None:
        theirs = {"llm_tasks": 1, "leases": len(found.leases), "llm_results": len(found.results)}
        theirs["runtime_artifacts"] = len(found.artifacts)
        ours = {"llm_tasks": 0, "leases": 0, "llm_results": 0, "runtime_artifacts": 0}
        if rows is not None:
            ours = {"llm_tasks": 1, "leases": len(found.leases), "llm_results": len(rows.results)}
            ours["runtime_artifacts"] = int(rows.artifact is not None)
        for table, count in theirs.items():
            amount = self.report.amounts[table]
            amount.found += count
            amount.there += count if is_known else 0
            amount.taken += ours[table]

    async def _content(self, found: Found) -> tuple[Success | None, Content | None]:
        """What completes the task, and where its output stands; (None, None) where nothing does, or the output is lost."""
        success = success_of(found)
        if success is None:
            return None, None
        artifact, output = success.artifact or {}, text(success.result or {}, "output")
        content, url = text(artifact, "content"), text(artifact, "url") or ""
        if content is None and url.startswith(_MINIO):
            stored = await self._stored(url.removeprefix(_MINIO).partition("/")[2], output)
            if stored is not None:
                return success, stored
            if output is None:
                self.report.note(
                    "runtime_artifacts", "not taken: its object is not in the store", [str(artifact["id"])]
                )
                return None, None
            self.report.note(
                "runtime_artifacts", "its object is not in the store: the result's output is", [str(artifact["id"])]
            )
        content = output or "" if content is None else content
        task_id, artifact_id = TaskId(str(found.task["id"])), ArtifactId(str(artifact.get("id", "")))
        placement = await self._places.place(task_id, artifact_id, content)
        inline = not placement.chunks
        return success, Content(
            placement, None if inline else content[:CUT_CHARS], not inline and len(content) > CUT_CHARS
        )

    async def _stored(self, key: str, output: str | None) -> Content | None:
        """An object, looked at from its first byte to its last; it stays where it is."""
        assert self._blobs is not None  # noqa: S101
        digest, size, beginning = hashlib.sha256(), 0, b""
        try:
            async for piece in self._blobs.stream(key):
                digest.update(piece)
                size += len(piece)
                if len(beginning) < CUT_CHARS:
                    beginning += piece[:CUT_CHARS]
        except BlobMissing:
            return None
        columns = {
            "size_bytes": size,
            "sha256": digest.hexdigest(),
            "place": "store",
            "content": None,
            "object_key": key,
        }
        columns |= {"url": self._blobs.url(key), "moves_to_store": False}
        shown = (beginning.decode(errors="ignore") if output is None else output)[:CUT_CHARS]
        return Content(Placement(columns), shown, size > len(shown.encode()))

    async def _insert(self, planned: Sequence[Planned], chunks: Sequence[tuple[TaskId, ArtifactId, Placement]]) -> None:
        leases = [lease for each in planned for lease in each.leases]
        async with self._database.transaction() as connection:
            await _put(connection, "insert_tasks", [each.task for each in planned], leases=len(leases))
            await _put(connection, "insert_leases", leases)
            for task_id, artifact_id, placement in chunks:
                await artifacts.keep_chunks(connection, task_id, artifact_id, placement)
            await _put(connection, "insert_artifacts", [each.artifact for each in planned if each.artifact is not None])
            await _put(connection, "insert_results", [result for each in planned for result in each.results])
            await _put(connection, "insert_audit", [entry for each in planned for entry in each.audit], actor=ACTOR)


async def _put(connection: Connection, query: str, rows: Sequence[dict[str, Any]], **params: Any) -> None:
    numbered = [{"n": n, **row} for n, row in enumerate(rows)]
    await connection.execute(_SQL[query], {"rows": as_json(numbered), **params})


def _place(rows: Planned, content: Content) -> None:
    assert rows.artifact is not None  # noqa: S101
    rows.artifact |= content.placement.columns
    for result in rows.results:
        if result["status"] == "success":
            result |= {"output": content.output, "output_cut": content.cut}


def _worker(row: Row) -> dict[str, Any] | None:
    if not (name := text(row, "id") or text(row, "name")):
        return None
    can = fields(row, "capabilities")
    return {
        "id": name,
        **{key: text(row, key) for key in ("node_id", "url", "db_sha", "agent_version", "os_info", "install_method")},
        "claude_cli": can.get("claude_cli") is not False,
        "max_concurrency": whole(can, "max_concurrency", least=1, most=32, default=1),
        "labels": texts(can, "labels"),
        "ip_addrs": texts(row, "ip_addrs"),
        "obs_count": whole(row, "obs_count", least=0, most=2**31 - 1, default=0)
        if row.get("obs_count") is not None
        else None,
        "registered_at": moment(row, "registered_at"),
        "last_heartbeat": moment(row, "last_heartbeat"),
    }


def _unquoted(value: Any) -> str:
    """A text that may have been stored as JSON."""
    return str(value or "").strip().strip('"')
