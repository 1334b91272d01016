"""Settings of the control plane: those of the runtime that concern any server, and its own."""

from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr

from bloom.base.errors import ConfigurationError
from bloom.base.settings import ServerSettings
from bloom.blobs.endpoint import endpoint_url
from bloom.blobs.interface import BlobStore
from bloom.blobs.local import DirectoryBlobs
from bloom.blobs.open import open_bucket
from bloom.membridge.model import DEFAULT_LEASE_SECONDS
from bloom.membridge.schemas import LONGEST_LEASE_SECONDS

DEFAULT_MEMBRIDGE_PORT = 8000


class MembridgeSettings(ServerSettings):
    """Everything `bloom membridge serve` can be told."""

    membridge_port: int | None = Field(default=None, ge=0, le=65535, validation_alias="MEMBRIDGE_PORT")
    membridge_host: str | None = Field(default=None, validation_alias=AliasChoices("MEMBRIDGE_HOST", "BLOOM_HOST"))
    membridge_dev: bool = Field(default=False, validation_alias="MEMBRIDGE_DEV")
    previous_admin_key: SecretStr | None = Field(default=None, validation_alias="MEMBRIDGE_ADMIN_KEY_PREVIOUS")
    agent_key: SecretStr | None = Field(default=None, validation_alias="MEMBRIDGE_AGENT_KEY")
    lease_seconds: int = Field(
        default=DEFAULT_LEASE_SECONDS, ge=1, le=LONGEST_LEASE_SECONDS, validation_alias="LEADERSHIP_LEASE_SECONDS"
    )
    job_timeout_sec: float = Field(default=600, ge=1, le=86_400, validation_alias="MEMBRIDGE_JOB_TIMEOUT_SEC")
    minio_bucket: str | None = Field(default=None, validation_alias="MINIO_BUCKET")
    sync_dir: Path | None = Field(default=None, validation_alias="BLOOM_SYNC_DIR")

    @property
    def development(self) -> bool:
        """Whether serving without a key is allowed, on loopback."""
        return self.membridge_dev or "development" in (self.node_env.lower(), self.bloom_env.lower())

    @property
    def listen_port(self) -> int:
        """`MEMBRIDGE_PORT`, else 8000."""
        return DEFAULT_MEMBRIDGE_PORT if self.membridge_port is None else self.membridge_port

    def require_key(self) -> None:
        """Raise ConfigurationError when there is no key and development mode was not asked for, or a previous key alone."""
        if self.membridge_admin_key is None and self.previous_admin_key is not None:
            raise ConfigurationError("MEMBRIDGE_ADMIN_KEY_PREVIOUS is set, so MEMBRIDGE_ADMIN_KEY must be set too")
        if self.membridge_admin_key is None and (self.production or not self.development):
            raise ConfigurationError(
                "MEMBRIDGE_ADMIN_KEY must be set (or MEMBRIDGE_DEV=1 to serve without a key, to this machine alone)"
            )

    def open_bucket(self) -> BlobStore | None:
        """Where the projects' memories are and leases are published: the bucket `MINIO_BUCKET`, else the directory
        `BLOOM_SYNC_DIR`, else None.

        Raises ConfigurationError that names the variable which is missing or wrong.
        """
        if self.minio_endpoint is None or self.minio_bucket is None:
            return None if self.sync_dir is None else DirectoryBlobs(self.sync_dir, variable="BLOOM_SYNC_DIR")
        endpoint = endpoint_url(
            self.minio_endpoint,
            port=self.minio_port,
            port_given="minio_port" in self.model_fields_set,
            use_ssl=self.minio_use_ssl,
        )
        return open_bucket(
            endpoint,
            self.minio_bucket,
            access_key=self.minio_access_key,
            secret_key=self.minio_secret_key,
            region=self.minio_region,
            bucket_variable="MINIO_BUCKET",
        )
