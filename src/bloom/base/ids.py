"""Ids: opaque strings on the wire, distinct types in the code.

New ids are UUID version 7 (RFC 9562, section 5.7): they sort by the time they were made, which keeps index inserts local.
"""

import os
import threading
import time
from datetime import UTC, datetime
from typing import NewType
from uuid import UUID

TaskId = NewType("TaskId", str)
LeaseId = NewType("LeaseId", str)
WorkerId = NewType("WorkerId", str)
ArtifactId = NewType("ArtifactId", str)
ResultId = NewType("ResultId", str)
KeyId = NewType("KeyId", str)

_lock = threading.Lock()
_last_tick = 0
_drawn: list[int] = []


def _uuid7() -> str:
    """A UUIDv7 that is greater than every one this process made before (method 3 of RFC 9562, section 6.2)."""
    global _last_tick
    with _lock:
        # 48 bits of milliseconds and 12 bits of the fraction below, counted on when the clock does not move.
        nanoseconds = time.time_ns()
        tick = (nanoseconds // 1_000_000 << 12) | (nanoseconds % 1_000_000 * 4096 // 1_000_000)
        _last_tick = tick = max(tick, _last_tick + 1)
        random = _random_62_bits()
    milliseconds, fraction = tick >> 12, tick & 0xFFF
    text = f"{milliseconds << 80 | 7 << 76 | fraction << 64 | 0b10 << 62 | random:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _random_62_bits() -> int:
    """From the system's generator, asked once for many: each question is a system call."""
    if not _drawn:
        block = os.urandom(8 * 512)
        _drawn.extend(int.from_bytes(block[n : n + 8]) & ((1 << 62) - 1) for n in range(0, len(block), 8))
    return _drawn.pop()


def made_at(text: str) -> datetime | None:
    """When an id was made, by the clock of who made it; None for what is no UUIDv7."""
    try:
        known = UUID(text)
    except ValueError:
        return None
    return datetime.fromtimestamp((known.int >> 80) / 1000, UTC) if known.version == 7 else None


def new_task_id() -> TaskId:
    """A new task id."""
    return TaskId(_uuid7())


def new_lease_id() -> LeaseId:
    """A new lease id."""
    return LeaseId(_uuid7())


def new_artifact_id() -> ArtifactId:
    """A new artifact id."""
    return ArtifactId(_uuid7())


def new_result_id() -> ResultId:
    """A new result id."""
    return ResultId(_uuid7())


def new_key_id() -> KeyId:
    """A new id of a key (not the key itself)."""
    return KeyId(_uuid7())


def new_job_id() -> str:
    """A new id of a sync job of Membridge."""
    return _uuid7()


def new_request_id() -> str:
    """An id for one HTTP request, kept by logs on both sides."""
    return _uuid7()
