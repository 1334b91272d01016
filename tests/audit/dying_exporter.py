"""An exporter that is killed at a named step: `python dying_exporter.py DATABASE_URL DIRECTORY STEP`."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from bloom.audit import exporting, store
from bloom.audit.exporting import AuditExporter
from bloom.audit.sealing import AuditSealer
from bloom.blobs.local import DirectoryBlobs
from bloom.db.pool import Database

MOST_ENTRIES = 30
STEPS = ("planned", "reading", "written", "noted")


def die() -> None:
    """As `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, directory: str, step: str) -> None:
    """Export; die in the second file."""
    exporting.MOST_ENTRIES = MOST_ENTRIES  # pyright: ignore[reportConstantRedefinition]
    files = 0
    exported = store.exported

    async def exported_then_die(connection: store.Connection, export: store.Export) -> None:
        await exported(connection, export)
        await connection.commit()
        if step == "noted" and files == 2:
            die()

    class Blobs(DirectoryBlobs):
        async def put(self, key: str, data: bytes | AsyncIterator[bytes], *, content_type: str | None = None) -> None:
            nonlocal files
            files += 1
            if files == 2 and step == "planned":
                die()
            assert not isinstance(data, bytes)
            await super().put(key, self._read(data), content_type=content_type)
            if files == 2 and step == "written":
                die()

        async def _read(self, lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async for some in lines:
                yield some
                if files == 2 and step == "reading":
                    die()

    store.exported = exported_then_die
    database = Database(url, size=2)
    await database.open()
    await AuditExporter(database, AuditSealer(database), Blobs(Path(directory)), every_sec=0).export()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
