"""Which session of the Claude CLI continues a context, and that no two runs write one session.

A session belongs to a context and a working directory: the CLI resumes it only from there. It is remembered on disk,
after a good run only, together with the last message of that run. The next run goes on from that message: what a failed
run, or one that still goes on, has put behind it is not carried along.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bloom.worker.workspace import safe_name

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


@dataclass(frozen=True)
class SessionPlan:
    """How a run begins: with a session of its own (`session_id` is None), or on from one, in it or in a fork of it.

    `message_id` is the message to go on from; None means the last.
    """

    session_id: str | None = None
    fork: bool = False
    message_id: str | None = None


class Sessions:
    """The sessions of one worker, in files under `directory`. For one process and one thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written: set[str] = set()

    @contextlib.contextmanager
    def planned(self, context_id: str, working_directory: Path) -> Generator[SessionPlan]:
        """The plan for a run that lasts as long as this block. A session that another run now writes is forked."""
        session_id, message_id = self._recall(context_id, working_directory)
        if session_id is None or session_id in self._written:
            yield SessionPlan(session_id, session_id is not None, message_id)
            return
        self._written.add(session_id)
        try:
            yield SessionPlan(session_id, message_id=message_id)
        finally:
            self._written.discard(session_id)

    def remember(self, context_id: str, working_directory: Path, session_id: str, message_id: str | None) -> None:
        """Let the next run of the context go on from this message of this session. Atomic. Raises OSError."""
        path = self._path(context_id, working_directory)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {"context_id": context_id, "session_id": session_id, "message_id": message_id}
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".new-", delete=False) as file:
            try:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise

    def _recall(self, context_id: str, working_directory: Path) -> tuple[str | None, str | None]:
        try:
            known: Any = json.loads(self._path(context_id, working_directory).read_bytes())
            session_id, message_id = str(known["session_id"]), str(known["message_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return None, None  # none yet, or a damaged file: a new session is right in both cases
        if not _UUID.fullmatch(session_id):
            return None, None
        return session_id, message_id if _UUID.fullmatch(message_id) else None

    def _path(self, context_id: str, working_directory: Path) -> Path:
        key = f"{context_id} {os.path.realpath(working_directory)}"
        return self._directory / f"{safe_name(key)}.json"
