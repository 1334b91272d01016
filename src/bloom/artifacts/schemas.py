"""The wire of artifacts. Times are epoch milliseconds, sizes bytes."""

from typing import Any

from pydantic import BaseModel

from bloom.artifacts.model import Artifact
from bloom.base.clock import to_ms


class RuntimeArtifact(BaseModel):
    """An artifact as clients read it. `content` is null when it is in the object store or over 1 MiB: see its content route."""

    id: str
    task_id: str
    job_id: str
    type: str
    created_at: int
    finalized: bool
    url: str | None
    entity_refs: list[Any]
    tags: list[str]
    content: str | None
    content_type: str
    size_bytes: int
    sha256: str
    truncated: bool | None = None


class ArtifactUrl(BaseModel):
    """A link that needs no key, until `expires_at`."""

    url: str
    expires_at: int


def artifact_fields(artifact: Artifact) -> dict[str, Any]:
    """`artifact` as the fields of a RuntimeArtifact."""
    fields: dict[str, Any] = {
        "id": artifact.id,
        "task_id": artifact.task_id,
        "job_id": artifact.job_id,
        "type": artifact.type,
        "created_at": to_ms(artifact.created_at),
        "finalized": artifact.finalized,
        "url": artifact.url,
        "entity_refs": list(artifact.entity_refs),
        "tags": list(artifact.tags),
        "content": artifact.content,
        "content_type": artifact.content_type,
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
    }
    if artifact.truncated:
        fields["truncated"] = True
    return fields
