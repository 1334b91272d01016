"""What can be wrong with an archive, or with where it is to go."""

from bloom.base.errors import BloomError, Conflict


class BackupDamaged(BloomError):
    """The archive is not whole: cut short, changed, or not an archive at all."""

    code = "backup_damaged"


class BackupLocked(BloomError):
    """The archive is encrypted, and there is no passphrase or another one."""

    code = "backup_locked"


class BackupTooNew(BloomError):
    """A newer release made the archive."""

    code = "backup_too_new"


class TargetNotEmpty(Conflict):
    """A restore would replace what is there, and was not told to."""

    code = "target_not_empty"
