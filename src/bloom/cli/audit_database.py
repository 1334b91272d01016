"""What the commands on the audit log do in the database, past the runtime."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import typer

from bloom.audit.exporting import read_lines, span
from bloom.audit.verifying import Verdict
from bloom.audit.verifying import verify as follow_chain
from bloom.base.errors import ConfigurationError
from bloom.base.settings import ServerSettings, load
from bloom.cli.counting import Counting
from bloom.cli.exits import ExitCode
from bloom.cli.moments import moment
from bloom.cli.terminal import clean_line
from bloom.db.local import installed_database
from bloom.db.pool import Database

T = TypeVar("T")


def verify(expected: Mapping[int, bytes], progress: Callable[[int], None]) -> Verdict:
    """Verify the chain in the database of this installation."""
    return _run(lambda database: follow_chain(database, expected, progress=progress))


def export(since: str | None, until: str | None, output: str) -> None:
    """Write the sealed entries from `since` to `until` to `output`, a file that appears whole, or to stdout ("-")."""
    start, end = (
        None if text is None else moment(text, option) for text, option in ((since, "--since"), (until, "--until"))
    )
    progress = Counting("exported", "entries")

    async def write(database: Database) -> None:
        numbers = await span(database, start, end)
        with _whole_file(output) as file:
            if numbers is None:
                return
            first, last = numbers
            async with aclosing(read_lines(database, first, last)) as lines:
                async for n, text in lines:
                    file.write(text)
                    progress(n - first + 1)

    try:
        _run(write)
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    progress.end()


def _run(work: Callable[[Database], Awaitable[T]]) -> T:
    async def with_pool(url: str) -> T:
        database = Database(url, size=1)
        await database.open()
        try:
            return await work(database)
        finally:
            await database.close()

    with installed_database(load(ServerSettings)) as url:
        return asyncio.run(with_pool(url))


@contextmanager
def _whole_file(output: str) -> Generator[BinaryIO]:
    if output == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = Path(f"{output}.part")
    try:
        file = part.open("wb")
    except OSError as error:
        raise ConfigurationError(f"--output {clean_line(output)}: {error.strerror}") from None
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
