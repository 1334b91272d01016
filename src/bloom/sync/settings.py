"""What a node is told by its environment (names of the wire contract, section 2.3)."""

import socket
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bloom.base.errors import ConfigurationError
from bloom.blobs.endpoint import endpoint_url
from bloom.blobs.interface import BlobStore
from bloom.sync.model import Keys


def _hostname() -> str:
    return socket.gethostname() or "node"


class SyncSettings(BaseSettings):
    """Everything `bloom sync` can be told. Secrets are SecretStr, so that no representation shows them."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    project: str | None = Field(default=None, max_length=128, validation_alias="CLAUDE_PROJECT_ID")
    database: Path = Field(default=Path("~/.claude-mem/claude-mem.db"), validation_alias="CLAUDE_MEM_DB")
    node_id: str = Field(default_factory=_hostname, min_length=1, max_length=128, validation_alias="MEMBRIDGE_NODE_ID")
    primary_node_id: str | None = Field(default=None, validation_alias="PRIMARY_NODE_ID")
    membridge_url: str | None = Field(default=None, validation_alias="MEMBRIDGE_URL")
    membridge_admin_key: SecretStr | None = Field(default=None, validation_alias="MEMBRIDGE_ADMIN_KEY")

    minio_endpoint: str | None = Field(default=None, validation_alias="MINIO_ENDPOINT")
    minio_port: int = Field(default=9000, ge=1, le=65535, validation_alias="MINIO_PORT")
    minio_use_ssl: bool = Field(default=False, validation_alias="MINIO_USE_SSL")
    minio_access_key: SecretStr | None = Field(default=None, validation_alias="MINIO_ACCESS_KEY")
    minio_secret_key: SecretStr | None = Field(default=None, validation_alias="MINIO_SECRET_KEY")
    minio_bucket: str | None = Field(default=None, validation_alias="MINIO_BUCKET")
    minio_region: str = Field(default="us-east-1", validation_alias="MINIO_REGION")
    directory: Path | None = Field(default=None, validation_alias="BLOOM_SYNC_DIR")

    allow_secondary_push: bool = Field(default=False, validation_alias="ALLOW_SECONDARY_PUSH")
    allow_primary_pull: bool = Field(default=False, validation_alias="ALLOW_PRIMARY_PULL_OVERRIDE")
    force_push: bool = Field(default=False, validation_alias="FORCE_PUSH")
    lock_ttl_sec: int = Field(default=7200, ge=1, validation_alias="LOCK_TTL_SECONDS")
    lock_grace_sec: int = Field(default=60, ge=0, validation_alias="STALE_LOCK_GRACE_SECONDS")
    lease_sec: int = Field(default=3600, ge=1, validation_alias="LEADERSHIP_LEASE_SECONDS")
    backup_days: int = Field(default=14, ge=0, validation_alias="PULL_BACKUP_MAX_DAYS")
    backup_count: int = Field(default=50, ge=1, validation_alias="PULL_BACKUP_MAX_COUNT")
    keep_versions: int = Field(default=20, ge=1, validation_alias="BLOOM_SYNC_KEEP_VERSIONS")

    @field_validator("project")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        return value if value and value.strip() else None

    @field_validator("database")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        # A link is followed: SQLite names its -wal after the file that the link leads to.
        return value.expanduser().absolute().resolve()

    @property
    def keys(self) -> Keys:
        """The objects of the project. Raises ConfigurationError when no project is named."""
        if self.project is None:
            raise ConfigurationError("CLAUDE_PROJECT_ID is not set: name the project there or with --project")
        return Keys(self.project)

    def missing(self) -> dict[str, str]:
        """The variables without which no node can be opened, each with what helps."""
        found: dict[str, str] = {}
        if self.project is None:
            found["CLAUDE_PROJECT_ID"] = "name the project there or with --project"
        if self.minio_endpoint is None and self.directory is None:
            found["MINIO_ENDPOINT"] = (
                "set it with MINIO_BUCKET, MINIO_ACCESS_KEY and MINIO_SECRET_KEY for an S3 store, or BLOOM_SYNC_DIR"
            )
        if self.minio_endpoint is not None:
            secrets = {"MINIO_ACCESS_KEY": self.minio_access_key, "MINIO_SECRET_KEY": self.minio_secret_key}
            given = {name: value.get_secret_value() for name, value in secrets.items() if value is not None}
            values = {"MINIO_BUCKET": self.minio_bucket, **dict.fromkeys(secrets), **given}
            found |= {name: "MINIO_ENDPOINT needs it" for name, value in values.items() if not value}
        if self.membridge_url is not None and self.membridge_admin_key is None:
            found["MEMBRIDGE_ADMIN_KEY"] = "MEMBRIDGE_URL needs it"
        return found

    @property
    def store_name(self) -> str:
        """The store in words for people: its address and bucket, or the directory; no secret."""
        if self.minio_endpoint is None:
            return "no store" if self.directory is None else str(self.directory)
        return f"{self._endpoint()}/{self.minio_bucket}"

    def open_store(self) -> BlobStore:
        """The bucket of `MINIO_ENDPOINT`, else the directory `BLOOM_SYNC_DIR`. It is not asked anything yet.

        Raises ConfigurationError that names the variable which is missing or wrong.
        """
        if self.minio_endpoint is not None:
            from bloom.blobs.open import open_bucket

            if self.minio_bucket is None:
                raise ConfigurationError("MINIO_ENDPOINT is set, so MINIO_BUCKET must be set too")
            return open_bucket(
                self._endpoint(),
                self.minio_bucket,
                access_key=self.minio_access_key,
                secret_key=self.minio_secret_key,
                region=self.minio_region,
                bucket_variable="MINIO_BUCKET",
            )
        if self.directory is not None:
            from bloom.blobs.local import DirectoryBlobs

            return DirectoryBlobs(self.directory, variable="BLOOM_SYNC_DIR")
        raise ConfigurationError("no store is set: MINIO_ENDPOINT and MINIO_BUCKET for an S3 store, or BLOOM_SYNC_DIR")

    def _endpoint(self) -> str:
        return endpoint_url(
            self.minio_endpoint or "",
            port=self.minio_port,
            port_given="minio_port" in self.model_fields_set,
            use_ssl=self.minio_use_ssl,
        )
