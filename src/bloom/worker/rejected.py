"""Reports that the runtime did not take, kept for a while: somebody may want what a run cost money to write."""

import logging
import time
from pathlib import Path
from typing import Any

from bloom.worker.durable import write_atomically
from bloom.worker.storable import to_storable_json

log = logging.getLogger("bloom.worker")

MAX_FILES = 50
MAX_AGE_SEC = 7 * 24 * 3600


class Rejected:
    """The directory `<worker dir>/rejected`: at most 50 files, none older than 7 days."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, name: str, completion: dict[str, Any], outcome: str) -> None:
        """Write `completion` to `<name>.json` if it has an output. Logs what cannot be written; blocks on the disk."""
        if not completion.get("output"):
            return
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            text = to_storable_json({"outcome": outcome, "completion": completion})
            write_atomically(self._directory / f"{name}.json", text, sync=False)
            self._drop_old()
        except OSError as error:
            log.warning("a report that the runtime did not take cannot be kept: %s", error.strerror)

    def _drop_old(self) -> None:
        files = sorted(self._directory.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        oldest = time.time() - MAX_AGE_SEC
        for position, path in enumerate(files):
            if position >= MAX_FILES or path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)
