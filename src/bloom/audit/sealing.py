"""The sealer of the audit log: it follows the writers, who do not know of it."""

import asyncio

from bloom.audit import chain, store
from bloom.audit.model import Position, Seal
from bloom.db.pool import Database

MOST_ENTRIES = 1000
"""A seal, and the transaction that writes it, has no more."""


class AuditSealer:
    """Appends what was written to the chain of hashes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def seal(self) -> int:
        """Seal the entries of all transactions that are older than every one under way; how many. None of them can come
        later, so the order is final. Of several processes one does it, and the others leave it to that one.
        """
        sealed = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            async with self._database.transaction() as connection:
                if not await store.lock_chain(connection):
                    return sealed
                last = await store.last_seal(connection)
                after = Position(0, 0) if last is None else last.last
                rows = await store.digests(connection, after=after, limit=MOST_ENTRIES)
                if rows:
                    await store.append(connection, _next_seal(last, rows))
            sealed += len(rows)
            if len(rows) < MOST_ENTRIES:
                return sealed
            # A log that never was sealed may have millions of entries: as much rest as work, beside the traffic.
            await asyncio.sleep(loop.time() - began)


def _next_seal(last: Seal | None, rows: list[tuple[Position, bytes]]) -> Seal:
    own = chain.BEGINNING if last is None else last.hash
    for _, digest in rows:
        own = chain.link(own, digest)
    return Seal(
        first_n=1 if last is None else last.last_n + 1,
        ids=[position.id for position, _ in rows],
        marks=b"".join(digest[: chain.MARK_BYTES] for _, digest in rows),
        hash=own,
        last=rows[-1][0],
    )
