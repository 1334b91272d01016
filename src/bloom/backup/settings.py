"""Settings of backups: those of the runtime and of Membridge say what there is to copy, these how it is sealed."""

from pathlib import Path

from pydantic import Field, SecretStr

from bloom.base.errors import ConfigurationError
from bloom.membridge.settings import MembridgeSettings

SECRET_FILES = ("secret.key", "membridge.key")
"""Files of the data directory without which what the database keeps sealed, or what nodes show, is lost."""

ENV_FILE = "environment"
"""The environment file's name in an archive."""


class BackupSettings(MembridgeSettings):
    """Everything `bloom backup` can be told by the environment."""

    backup_passphrase: SecretStr | None = Field(default=None, validation_alias="BLOOM_BACKUP_PASSPHRASE")
    backup_passphrase_file: Path | None = Field(default=None, validation_alias="BLOOM_BACKUP_PASSPHRASE_FILE")

    def passphrase(self) -> str | None:
        """What archives are encrypted with; None: they are not. Raises ConfigurationError for a file that cannot be used."""
        if self.backup_passphrase is not None:
            return self.backup_passphrase.get_secret_value()
        if self.backup_passphrase_file is None:
            return None
        try:
            found = self.backup_passphrase_file.expanduser().read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError):
            found = ""
        if not found:
            raise ConfigurationError(
                "BLOOM_BACKUP_PASSPHRASE_FILE must be a file that holds the passphrase, in one line"
            )
        return found
