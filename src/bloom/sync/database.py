"""The live SQLite database: copies of it, what is in it, and another state brought into it. Never its bare file.

Every function raises BadDatabase or DatabaseBusy, whose message a person can act on, and OSError.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

from bloom.sync.errors import BadDatabase, DatabaseBusy, DatabaseChanged
from bloom.sync.failpoints import reach
from bloom.sync.model import MANIFEST_TABLES, LocalFiles, Snapshot

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_NOT_WHOLE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_BUSY_SEC = 15.0
_STEP_PAGES = 256
_WAL_SUFFIXES = ("-wal", "-shm", "-journal")
_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"


def fingerprint(database: Path) -> str:
    """A text that changes whenever the content does; "" where there is no database.

    In WAL mode commits go to the `-wal` file, so that is read whole (claude-mem's is a few MiB at most); else each commit
    changes the file's header. It may change without the content: then a look at the content costs time, nothing else.
    """
    digest = hashlib.sha256()
    try:
        with database.open("rb") as file:
            state = os.fstat(file.fileno())
            digest.update(f"{state.st_ino} {state.st_size} {state.st_mtime_ns} ".encode() + file.read(_HEADER_BYTES))
    except FileNotFoundError:
        return ""
    try:
        with _beside(database, "-wal").open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except FileNotFoundError:
        pass
    return digest.hexdigest()


def is_sqlite(path: Path) -> bool:
    """Whether `path` is a file that begins as SQLite databases do, or an empty one, which is a new database. OSError."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) in (_MAGIC, b"")


def settle(database: Path) -> str:
    """Let SQLite put a `-wal` that nobody uses into the file, and return the fingerprint that then stays."""
    with _errors(), closing(_open(database)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()
    return fingerprint(database)


def take_snapshot(database: Path, into: Path) -> Snapshot:
    """Copy the database, whole as of one moment, to the new file `into` (mode 600), and check that it is sound.

    The same content gives the same bytes on every node: what the header says of the writer is made uniform.
    """
    before = settle(database)
    copy(database, into)
    check(into)
    _make_uniform(into)
    return Snapshot(file_sha256(into), into.stat().st_size, count_rows(into), before)


def copy(database: Path, into: Path) -> None:
    """Copy the database by SQLite's backup API to the new file `into` (mode 600), in rollback mode, on the disk."""
    _remove(into)
    os.close(os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with _errors(), closing(_open(database)) as source, closing(_open(into)) as target:
        source.backup(target, progress=_Patience())
        target.execute("PRAGMA journal_mode = DELETE")
    reach("snapshot.copied")


def check(database: Path) -> None:
    """Return if SQLite finds the database sound. Raises BadDatabase."""
    with _errors(), closing(_open(database)) as connection:
        found = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(5)")]
    if found != ["ok"]:
        lines = [line for line in found[0].splitlines() if not line.startswith("***")]
        raise BadDatabase(f"SQLite's integrity check fails: {(lines or found)[0]}")


def count_rows(database: Path) -> dict[str, int]:
    """The rows of each table that a manifest counts, 0 for one that is missing, and under `tables` how many there are."""
    with _errors(), closing(_open(database)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        counts = {
            table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) if table in tables else 0  # noqa: S608
            for table in MANIFEST_TABLES
        }
    return {**counts, "tables": len(tables)}


def bring_in(source: Path, database: Path, *, expected: str) -> None:
    """Make the content of `database` that of the sound file `source`, in one transaction of SQLite.

    Other connections see the old content or the new. `expected` is the fingerprint of what may be replaced, "" for
    none: anything else there raises DatabaseChanged, and so does what was written in the meantime.
    """
    if not database.exists():
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove(database)  # a -wal whose database is gone is of no use to anybody
        os.close(os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        expected = fingerprint(database)
    try:
        with _errors(), closing(_open(source)) as origin, closing(_open(database)) as target:
            if _page_size(origin) != _page_size(target):
                # A database in WAL mode cannot change its page size.
                target.execute("PRAGMA journal_mode = DELETE")
                expected = fingerprint(database)
            is_unchanged = _unchanged(database, expected)
            is_unchanged()
            # At least two steps, so that there is one at which the lock is held and nothing is written yet.
            pages = max(1, min(_STEP_PAGES, int(origin.execute("PRAGMA page_count").fetchone()[0]) // 2))
            origin.backup(target, pages=pages, progress=_Patience(is_unchanged))
    except BadDatabase as error:
        if error.code != "not_whole":
            raise
        _replace(source, database, expected)
    reach("database.replaced")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftover(path: Path) -> None:
    """Remove a copy and what SQLite may have put beside it; what is missing is fine."""
    _remove(path)


class _Patience:
    """Follows a backup: gives up when the database stays locked, and once asks `begun` when its lock is held."""

    def __init__(self, begun: Callable[[], None] | None = None) -> None:
        self._until = time.monotonic() + _BUSY_SEC
        self._begun = begun

    def __call__(self, status: int, remaining: int, total: int) -> None:
        if status in _BUSY:
            if time.monotonic() > self._until:
                raise DatabaseBusy("another program keeps the database locked; close it, or try again")
            return
        if self._begun is not None and remaining:
            self._begun()
            self._begun = None
            reach("database.being_replaced")


def _unchanged(database: Path, expected: str) -> Callable[[], None]:
    def ask() -> None:
        if fingerprint(database) != expected:
            raise DatabaseChanged("the database was written to during the pull; nothing was replaced, try again")

    return ask


def _replace(source: Path, database: Path, expected: str) -> None:
    """Put a copy of `source` in the place of a file that is no database any more."""
    _unchanged(database, expected)()
    new = LocalFiles(database).incoming
    copy(source, new)
    for suffix in _WAL_SUFFIXES:
        _beside(database, suffix).unlink(missing_ok=True)
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(database)


def _make_uniform(database: Path) -> None:
    # Database File Format, section 1.3: 18 and 19 are the journal mode, 24 and 92 count changes, 40 the schema's
    # changes, 96 is the release of SQLite that wrote last. None of them is content; all nodes write them differently.
    with database.open("r+b") as file:
        if not file.read(1):
            return
        for offset, value in ((18, b"\1\1"), (24, bytes(3) + b"\1"), (40, bytes(3) + b"\1"), (92, bytes(3) + b"\1")):
            file.seek(offset)
            file.write(value)
        file.seek(96)
        file.write((3_040_000).to_bytes(4))
        file.flush()
        os.fsync(file.fileno())


def _page_size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_size").fetchone()[0])


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=5, isolation_level=None)


def _beside(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)


def _remove(path: Path) -> None:
    for each in (path, *(_beside(path, suffix) for suffix in _WAL_SUFFIXES)):
        each.unlink(missing_ok=True)


@contextmanager
def _errors() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _BUSY:
            raise DatabaseBusy("another program keeps the database locked; close it, or try again") from None
        if code in _NOT_WHOLE:
            raise BadDatabase("the file is not a whole SQLite database", code="not_whole") from None
        if code == sqlite3.SQLITE_FULL:
            raise OSError(28, "No space left on device") from None
        raise BadDatabase(f"SQLite cannot use the database: {error}") from None
