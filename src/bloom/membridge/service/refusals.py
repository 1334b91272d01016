"""The errors that several use cases of Membridge know."""

from bloom.base.errors import Conflict, NotFound
from bloom.membridge.model import Project


def project_not_found() -> NotFound:
    """There is no such project."""
    return NotFound("There is no such project.", code="project_not_found")


def agent_not_found(name: str) -> NotFound:
    """There is no such agent."""
    return NotFound(f"There is no agent named {name!r}.", code="agent_not_found")


def version_not_found() -> NotFound:
    """There is no such version."""
    return NotFound("There is no such version of this project.", code="version_not_found")


def stale_epoch(project: Project) -> Conflict:
    """The caller does not lead the project any more, or never did."""
    return Conflict(
        "Only the primary may do this, while its lease lasts and with the epoch of that lease.",
        code="stale_epoch",
        epoch=project.epoch,
        primary_node_id=None if project.lease is None else project.lease.node_id,
    )
