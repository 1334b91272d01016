"""Settings of the runtime, read once from the environment (names fixed by the wire contract)."""

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from bloom.base.errors import ConfigurationError
from bloom.base.variables import describe_problem

DEFAULT_PORT = 5000

S = TypeVar("S", bound=BaseSettings)


def default_data_dir() -> Path:
    """Where the data of this checkout or user lives when `BLOOM_DATA_DIR` does not say: `.bloom` in the working directory."""
    return Path.cwd() / ".bloom"


class DataDirSettings(BaseSettings):
    """The one setting that server, CLI and `make up` share before anything else is known."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    data_dir: Path = Field(default_factory=default_data_dir, validation_alias="BLOOM_DATA_DIR")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()


class ProcessSettings(BaseSettings):
    """What every process of ours that runs on can be told: the runtime, Membridge, a worker."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    log_level: str = Field(default="info", validation_alias="BLOOM_LOG_LEVEL")
    log_format: Literal["human", "json"] = Field(default="human", validation_alias="BLOOM_LOG_FORMAT")
    log_file: Path | None = Field(default=None, validation_alias="BLOOM_LOG_FILE")
    log_max_bytes: int = Field(default=50 * 1024 * 1024, ge=0, validation_alias="BLOOM_LOG_MAX_BYTES")
    log_keep_days: int = Field(default=14, ge=0, le=36_500, validation_alias="BLOOM_LOG_KEEP_DAYS")
    log_keep_files: int = Field(default=30, ge=0, validation_alias="BLOOM_LOG_KEEP_FILES")
    otlp_endpoint: str | None = Field(default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")


class ServerSettings(DataDirSettings, ProcessSettings):
    """Everything `bloom serve` can be told. Secrets are SecretStr, so that no representation shows them."""

    runtime_port: int | None = Field(default=None, ge=0, le=65535, validation_alias="BLOOM_RUNTIME_PORT")
    plain_port: int | None = Field(default=None, ge=0, le=65535, validation_alias="PORT")
    host: str | None = Field(default=None, validation_alias="BLOOM_HOST")
    processes: int = Field(default=1, ge=1, le=64, validation_alias="BLOOM_PROCESSES")
    drain_sec: float = Field(default=0, ge=0, le=300, validation_alias="BLOOM_DRAIN_SEC")
    database_url: SecretStr | None = Field(default=None, validation_alias="DATABASE_URL")
    listen_url: SecretStr | None = Field(default=None, validation_alias="BLOOM_LISTEN_URL")
    pool_size: int = Field(default=8, ge=2, le=100, validation_alias="BLOOM_DB_POOL_SIZE")
    api_key: SecretStr | None = Field(default=None, validation_alias="RUNTIME_API_KEY")
    metrics_key: SecretStr | None = Field(default=None, validation_alias="BLOOM_METRICS_KEY")
    previous_api_key: SecretStr | None = Field(default=None, validation_alias="RUNTIME_API_KEY_PREVIOUS")
    allow_no_auth: bool = Field(default=False, validation_alias="BLOOM_ALLOW_NO_AUTH")
    node_env: str = Field(default="", validation_alias="NODE_ENV")
    bloom_env: str = Field(default="", validation_alias="BLOOM_ENV")
    base_path: str = Field(default="", validation_alias="BLOOM_BASE_PATH")
    trusted_proxies: str = Field(default="127.0.0.1,::1", validation_alias="BLOOM_TRUSTED_PROXIES")
    rate_limit: str = Field(default="100/minute", validation_alias="BLOOM_RATE_LIMIT")
    rate_limit_by: Literal["address", "key"] = Field(default="address", validation_alias="BLOOM_RATE_LIMIT_BY")
    cors_origins: str = Field(default="", validation_alias="BLOOM_CORS_ORIGINS")
    max_connections: int = Field(default=10_000, ge=8, le=1_000_000, validation_alias="BLOOM_MAX_CONNECTIONS")
    max_connections_per_address: int | None = Field(
        default=None, ge=1, le=1_000_000, validation_alias="BLOOM_MAX_CONNECTIONS_PER_ADDRESS"
    )
    header_timeout_sec: float = Field(default=15, gt=0, le=3600, validation_alias="BLOOM_HEADER_TIMEOUT_SEC")
    body_timeout_sec: float = Field(default=30, gt=0, le=3600, validation_alias="BLOOM_BODY_TIMEOUT_SEC")
    max_header_bytes: int = Field(default=32 * 1024, ge=1024, le=1024 * 1024, validation_alias="BLOOM_MAX_HEADER_BYTES")
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024, validation_alias="BLOOM_MAX_BODY_BYTES")
    max_output_bytes: int = Field(default=2 * 1024**3, ge=1024, validation_alias="BLOOM_MAX_OUTPUT_BYTES")
    audit_export: bool = Field(default=True, validation_alias="BLOOM_AUDIT_EXPORT")
    audit_export_sec: int = Field(default=900, ge=1, le=86_400, validation_alias="BLOOM_AUDIT_EXPORT_SEC")
    retention_days: int = Field(default=90, ge=0, le=36_500, validation_alias="BLOOM_RETENTION_DAYS")
    membridge_url: str | None = Field(
        default=None, validation_alias=AliasChoices("MEMBRIDGE_SERVER_URL", "MEMBRIDGE_URL")
    )
    membridge_admin_key: SecretStr | None = Field(default=None, validation_alias="MEMBRIDGE_ADMIN_KEY")
    secret_key: SecretStr | None = Field(default=None, validation_alias="BLOOM_SECRET_KEY")

    minio_endpoint: str | None = Field(default=None, validation_alias="MINIO_ENDPOINT")
    minio_port: int = Field(default=9000, ge=1, le=65535, validation_alias="MINIO_PORT")
    minio_access_key: SecretStr | None = Field(default=None, validation_alias="MINIO_ACCESS_KEY")
    minio_secret_key: SecretStr | None = Field(default=None, validation_alias="MINIO_SECRET_KEY")
    minio_artifact_bucket: str = Field(default="bloom-artifacts", validation_alias="MINIO_ARTIFACT_BUCKET")
    minio_use_ssl: bool = Field(default=False, validation_alias="MINIO_USE_SSL")
    minio_region: str = Field(default="us-east-1", validation_alias="MINIO_REGION")
    blob_dir: Path | None = Field(default=None, validation_alias="BLOOM_BLOB_DIR")

    @property
    def production(self) -> bool:
        """Whether this is marked as a production installation."""
        return "production" in (self.node_env.lower(), self.bloom_env.lower())

    @property
    def port(self) -> int:
        """The port to listen on: `BLOOM_RUNTIME_PORT`, else `PORT`, else 5000."""
        if self.runtime_port is not None:
            return self.runtime_port
        return DEFAULT_PORT if self.plain_port is None else self.plain_port

    @property
    def port_was_asked_for(self) -> bool:
        """Whether the port comes from the environment: then a busy one is an error, never another port."""
        return self.runtime_port is not None or self.plain_port is not None

    @property
    def admin_keys(self) -> tuple[str, ...]:
        """`RUNTIME_API_KEY`, then the one before it that is still taken."""
        return tuple(key.get_secret_value() for key in (self.api_key, self.previous_api_key) if key is not None)

    @property
    def auth_required(self) -> bool:
        """Whether requests need a key. Without one the server is in development mode."""
        return self.api_key is not None


class ClientSettings(DataDirSettings):
    """Where the CLI and the worker find the runtime, and the key they show it."""

    url: str | None = Field(default=None, validation_alias="BLOOM_URL")
    port: int | None = Field(default=None, ge=1, le=65535, validation_alias=AliasChoices("BLOOM_RUNTIME_PORT", "PORT"))
    api_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("BLOOM_API_KEY", "RUNTIME_API_KEY"))


def load(cls: type[S], **overrides: Any) -> S:
    """Read `cls` from the environment. Raises ConfigurationError that names each bad variable and what would be right."""
    try:
        return cls(**overrides)
    except ValidationError as error:
        problems = [describe_problem(cls, problem) for problem in error.errors(include_input=False)]
        raise ConfigurationError("; ".join(f"{variable} {text}" for variable, text in problems)) from None
