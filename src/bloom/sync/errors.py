"""What can go wrong with a sync. `exit_code` is the one of the wire contract, section 2.3."""

from bloom.base.errors import BloomError


class SyncError(BloomError):
    """Nothing was lost, and what was current is still current."""

    code = "sync"
    exit_code = 1


class PullRefused(SyncError):
    """This node is primary and its database differs from the remote one."""

    code = "is_primary"
    exit_code = 2


class PushRefused(SyncError):
    """This node is not the primary, or not any more (code `stale_epoch`)."""

    code = "is_secondary"
    exit_code = 3


class BadPointer(SyncError):
    """`current.json` in the bucket cannot be understood; the versions themselves are whole."""

    code = "bad_pointer"


class BadLease(SyncError):
    """`lease.json` in the bucket cannot be understood, or is another project's; by it nobody is primary."""

    code = "bad_lease"


class RemoteMoved(SyncError):
    """Somebody else pushed since this node last synced."""

    code = "remote_moved"


class Locked(SyncError):
    """Another sync is under way."""

    code = "locked"


class BadDatabase(SyncError):
    """A file is not a whole SQLite database."""

    code = "bad_database"


class DatabaseBusy(SyncError):
    """Other programs keep the database locked."""

    code = "database_busy"


class DatabaseChanged(SyncError):
    """The database changed while it was being replaced; nothing was replaced."""

    code = "database_changed"


class MembridgeUnreachable(SyncError):
    """The control plane did not answer, or something else answered."""

    code = "unreachable"


class MembridgeRefused(SyncError):
    """The control plane answered with an error; `status` is the HTTP status."""

    code = "refused"

    def __init__(self, message: str, *, status: int, code: str) -> None:
        super().__init__(message, code=code)
        self.status = status
