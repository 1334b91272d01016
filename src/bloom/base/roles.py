"""What a caller may do. Which route takes which role stands in `bloom.server.access`."""

from enum import StrEnum


class Role(StrEnum):
    """What a caller may do."""

    ADMIN = "admin"
    """Everything."""
    SUBMITTER = "submitter"
    """Create, cancel and requeue tasks, and read whatever a reader reads."""
    WORKER = "worker"
    """Work as one worker: its own claims, leases and reports, and nobody else's."""
    READER = "reader"
    """Read tasks, workers, artifacts and the audit log, and follow streams."""
    JOIN = "join"
    """Be exchanged, once, for a worker's key."""
