"""Events and reports on this worker's disk until the runtime has acknowledged them.

    <worker dir>/spool/<lease id>/task.json      whose run this is
                                  events.jsonl   one event per line, as the wire wants it
                                  acked          the last seq that the runtime has acknowledged
                                  output         what the completion leaves out, where that is large
                                  report.json    the completion; with it the run is over

Everything here blocks on the disk: the daemon calls it in a thread. A run's files have one writer, the daemon that
holds the lock of the worker directory. Events survive `kill -9`; a report, and the events before it, a power cut.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import threading
from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from bloom.worker.durable import read_at, sync_directory, write_all, write_atomically
from bloom.worker.storable import to_storable_json

log = logging.getLogger("bloom.worker.spool")

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""Of one lease's events that wait for the runtime; the last eighth is for status events alone."""
COMPACT_BYTES = 1024 * 1024
STATUS = "status"

_GONE = ".gone-"
_GAP_BYTES = 256
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class RunEntry:
    """Whose run a directory of the spool holds."""

    task_id: str
    lease_id: str
    worker_id: str


class SpooledRun:
    """The files of one run. Safe to use from several threads."""

    def __init__(self, directory: Path, entry: RunEntry, *, max_bytes: int = MAX_EVENT_BYTES) -> None:
        """Open the files in `directory`, or make them. Raises OSError."""
        self.entry = entry
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._offsets = array("Q")  # where each event in the file starts; the first is that of seq `_base` + 1
        self._size = 0
        self._dropped = 0
        self._unwritten: str | None = None
        self._file = os.open(directory / "events.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._acked = self._base = self._read_acked()
            self._index()
        except OSError:
            os.close(self._file)
            raise

    @property
    def name(self) -> str:
        """A file name for this run."""
        return self._directory.name

    @property
    def output_path(self) -> Path:
        """The file for an output that is too large for a completion; it goes with the run."""
        return self._directory / "output"

    @property
    def last_seq(self) -> int:
        """The seq of the newest event, 0 before the first."""
        return self._base + len(self._offsets)

    @property
    def acked_seq(self) -> int:
        """The last seq that the runtime has acknowledged."""
        return self._acked

    def append(self, kind: str, data: dict[str, Any], at_ms: int) -> bool:
        """Number and keep one event; False when it was dropped because the spool of this lease is full.

        What was dropped is counted, and told by a `gap` status event before the next one that is kept. A disk that does
        not take an event counts as a full spool.
        """
        body = to_storable_json({"type": kind, "data": data, "at": at_ms})
        with self._lock:
            try:
                kept = self._has_room(kind, body) and self._tell_gap(at_ms) and self._put(body)
            except OSError as error:
                kept = False
                if not self._dropped:
                    log.warning("cannot spool an event: %s", error.strerror, extra={"lease": self.entry.lease_id})
            if not kept:
                self._dropped += 1
            return kept

    def read_batch(self, max_events: int, max_bytes: int) -> list[dict[str, Any]]:
        """The next events to deliver, in order: at most `max_events` and `max_bytes`, but at least one if there is one.

        Raises OSError.
        """
        with self._lock:
            first = self._acked - self._base
            if first >= len(self._offsets) or self._file < 0:
                return []
            start = self._offsets[first]
            ends = [*self._offsets[first + 1 : first + 1 + max_events], self._size][:max_events]
            end = max((end for end in ends if end - start <= max_bytes), default=ends[0])
            lines = read_at(self._file, start, end - start)
        return [json.loads(line) for line in lines.splitlines()]

    def acknowledge(self, next_seq: int) -> bool:
        """The runtime has all events before `next_seq`. False when it asks for one that is gone or never was."""
        with self._lock:
            if not self._base < next_seq <= self.last_seq + 1:
                return False
            self._acked = next_seq - 1
            try:
                write_atomically(self._directory / "acked", str(self._acked), sync=False)
                if self._acked == self.last_seq and self._size > COMPACT_BYTES:
                    os.ftruncate(self._file, 0)
                    self._base, self._size, self._offsets = self._acked, 0, array("Q")
            except OSError as error:  # a daemon after this one sends them again, which changes nothing
                log.debug("cannot note acknowledged events: %s", error.strerror)
            return True

    def write_report(self, completion: dict[str, Any], at_ms: int) -> None:
        """Keep the completion for good: when this returns, it and all events survive a loss of power.

        On a disk that does not take it, it is kept in memory and the error is logged. A second call replaces the first.
        """
        text = to_storable_json(completion)
        with self._lock:
            self._unwritten = text
            try:
                self._tell_gap(at_ms)
                os.fsync(self._file)
                write_atomically(self._directory / "report.json", text, sync=True)
                self._unwritten = None  # it may be large, and is read again when it is sent
            except OSError as error:
                log.error("cannot spool a report: %s", error.strerror, extra={"lease": self.entry.lease_id})

    def read_report(self) -> dict[str, Any] | None:
        """The completion, None where there is none that can be read."""
        with self._lock:
            try:
                text = self._unwritten or (self._directory / "report.json").read_bytes()
                report: object = json.loads(text)
            except (OSError, ValueError):
                return None
        return cast("dict[str, Any]", report) if isinstance(report, dict) else None

    def remove(self) -> None:
        """Forget the run, in one step for whoever reads the spool. Idempotent; logs what fails."""
        with self._lock:
            if self._file < 0:
                return
            os.close(self._file)
            self._file = -1
        gone = self._directory.with_name(_GONE + self._directory.name)
        try:
            self._directory.rename(gone)
            shutil.rmtree(gone)
        except OSError as error:
            log.warning("cannot remove a run: %s", error.strerror, extra={"lease": self.entry.lease_id})

    def close(self) -> None:
        """Close the files and leave them to the next daemon. Idempotent."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _has_room(self, kind: str, body: str) -> bool:
        limit = self._max_bytes if kind == STATUS else self._max_bytes // 8 * 7
        return self._size + len(body.encode()) + _GAP_BYTES <= limit

    def _put(self, body: str) -> bool:
        line = f'{{"seq":{self.last_seq + 1},{body[1:]}\n'.encode()
        try:
            write_all(self._file, line)
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._offsets.append(self._size)
        self._size += len(line)
        return True

    def _tell_gap(self, at_ms: int) -> bool:
        if self._dropped:
            data = {"state": "gap", "dropped": self._dropped, "reason": "the spool of the worker was full"}
            self._put(to_storable_json({"type": STATUS, "data": data, "at": at_ms}))
            self._dropped = 0
        return True

    def _index(self) -> None:
        """Find the events that a daemon before this one has left; a torn last line is cut off."""
        with (self._directory / "events.jsonl").open("rb") as file:
            for line in file:
                seq = _seq_of(line)
                if seq is None or (self._offsets and seq != self.last_seq + 1):
                    break
                if not self._offsets:
                    self._base = seq - 1
                self._offsets.append(self._size)
                self._size += len(line)
        os.ftruncate(self._file, self._size)
        self._acked = min(max(self._acked, self._base), self.last_seq)

    def _read_acked(self) -> int:
        try:
            return max(0, int((self._directory / "acked").read_text()))
        except (FileNotFoundError, ValueError):
            return 0


class Spool:
    """The runs of one worker directory."""

    def __init__(self, directory: Path) -> None:
        """Create `directory` (mode 700) where it is not there. Raises OSError."""
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def open_run(self, entry: RunEntry) -> SpooledRun:
        """Make the files of a new run. Raises OSError where the disk does not take them."""
        directory = self._directory / _directory_name(entry.lease_id)
        directory.mkdir(mode=0o700)
        try:
            write_atomically(directory / "task.json", json.dumps(asdict(entry)), sync=False)
            run = SpooledRun(directory, entry)
            sync_directory(self._directory)
        except OSError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return run

    def leftovers(self) -> list[SpooledRun]:
        """What daemons before this one have left, oldest first. What cannot be read is removed and logged.

        Raises OSError where the directory itself cannot be read.
        """
        found: list[SpooledRun] = []
        for directory in sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
            if directory.name.startswith(_GONE):
                shutil.rmtree(directory, ignore_errors=True)
                continue
            try:
                entry = RunEntry(**json.loads((directory / "task.json").read_bytes()))
                found.append(SpooledRun(directory, entry))
            except (OSError, ValueError, TypeError):
                log.warning("what a run left cannot be read and is removed", extra={"run": directory.name})
                shutil.rmtree(directory, ignore_errors=True)
        return found


def _directory_name(lease_id: str) -> str:
    """The lease id itself where it is a plain file name, else its hash: ids are opaque."""
    return lease_id if _PLAIN_NAME.fullmatch(lease_id) else hashlib.sha256(lease_id.encode()).hexdigest()


def _seq_of(line: bytes) -> int | None:
    """The seq of a whole line of `events.jsonl`, None for any other."""
    if not line.endswith(b"\n"):
        return None
    try:
        event: object = json.loads(line)
    except ValueError:
        return None
    seq = cast("dict[str, object]", event).get("seq") if isinstance(event, dict) else None
    return seq if isinstance(seq, int) else None
