"""Exporting the sealed audit log: as files in the object store, each entry in one of them, and as lines for whoever asks."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

from bloom.audit import chain, store
from bloom.audit.sealing import AuditSealer
from bloom.blobs.interface import BlobStore
from bloom.db.pool import Database

MOST_ENTRIES = 50_000
"""A file has about so many: some 25 MB."""

FINISH_SEC = 2.0
"""So long the end of a process may wait for the object store; the next one goes on."""

_log = logging.getLogger(__name__)


async def read_lines(database: Database, first_n: int, last_n: int | None) -> AsyncGenerator[tuple[int, bytes], None]:
    """The entries with these numbers (None: to the end of the chain) as the lines of an export, some at a time, each time with
    the number of the last one. In short transactions, and in bounded memory.
    """
    n = first_n
    while last_n is None or n <= last_n:
        async with database.transaction() as connection:
            before, seals = await store.seals(connection, n, limit=1)
            if not seals:
                return
            (seal,) = seals
            entries = await store.entries(connection, seal.ids)
        previous = chain.BEGINNING if before is None else before.hash
        lines = [
            text
            for number, text in chain.sealed_lines(seal, previous, entries)
            if number >= first_n and (last_n is None or number <= last_n)
        ]
        yield seal.last_n if last_n is None else min(seal.last_n, last_n), b"".join(lines)
        n = seal.last_n + 1


async def span(database: Database, since: datetime | None, until: datetime | None) -> tuple[int, int | None] | None:
    """The numbers of the first entry at or after `since` and the last one before `until`; None when there is none."""
    async with database.transaction() as connection:
        first = 1 if since is None else await store.first_since(connection, since)
        last = None if until is None else await store.last_until(connection, until)
    if first is None or (until is not None and (last is None or last < first)):
        return None
    return first, last


class AuditExporter:
    """Writes what is sealed to the object store. Any number of processes may: which entries a file has is decided once, in
    the database, so that whoever repeats it writes the same bytes under the same name.
    """

    def __init__(self, database: Database, sealer: AuditSealer, blobs: BlobStore, *, every_sec: float) -> None:
        self._database = database
        self._sealer = sealer
        self._blobs = blobs
        self.every_sec = every_sec

    async def export(self, *, at_once: bool = False) -> int:
        """Write the files that are due (`at_once`: all that is sealed); how many. Raises BlobUnavailable."""
        files = 0
        while True:
            async with self._database.transaction() as connection:
                export = await store.next_export(
                    connection, most=MOST_ENTRIES, every_sec=0 if at_once else self.every_sec
                )
            if export is None:
                return files
            await self._blobs.put(
                export.object_key, self._file(export.first_n, export.last_n), content_type="application/x-ndjson"
            )
            async with self._database.transaction() as connection:
                await store.exported(connection, export)
            files += 1

    async def finish(self) -> None:
        """Seal and export what there is, at the end of a process."""
        try:
            async with asyncio.timeout(FINISH_SEC):
                await self._sealer.seal()
                await self.export(at_once=True)
        except TimeoutError:
            _log.warning("the audit log was not exported to its end in time; the next process goes on")

    async def _file(self, first_n: int, last_n: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(read_lines(self._database, first_n, last_n)) as lines:
            async for _, some in lines:
                yield some
