"""Artifacts as the domain sees them: an output, written once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from bloom.base.ids import ArtifactId, TaskId

INLINE_MAX_BYTES = 1024 * 1024
"""Content up to this size stands in its row, larger content in chunk rows (wire contract, "Artifacts")."""

CHUNK_BYTES = 512 * 1024
"""Of a piece of larger content; as much of an upload is in memory at a time."""

PREVIEW_BYTES = INLINE_MAX_BYTES
"""So much of an upload is looked at when it is completed: all of one that goes inline."""


class Place(StrEnum):
    """Where the content is."""

    INLINE = "inline"
    CHUNKS = "chunks"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One row of `artifacts`. `content` only where it stands inline."""

    id: ArtifactId
    seq: int
    task_id: TaskId
    job_id: str
    type: str
    tags: Sequence[str]
    entity_refs: Sequence[Any]
    content_type: str
    size_bytes: int
    sha256: str
    place: Place
    content: str | None
    object_key: str | None
    url: str | None
    finalized: bool
    created_at: datetime
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the content of an artifact that is about to be made went, and the columns that say so.

    `chunks` are to be written in the transaction that makes the artifact. `preview` is the beginning of a content that was
    uploaded before: up to 1 MiB.
    """

    columns: Mapping[str, Any]
    object_key: str | None = None
    chunks: Sequence[bytes] = field(default=())
    preview: str | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """One row of `uploads`. `sha256` is of all that was received, where it is known; `whole`: it does not end within a
    character.
    """

    id: ArtifactId
    task_id: TaskId
    received: int
    sha256: str | None
    whole: bool
