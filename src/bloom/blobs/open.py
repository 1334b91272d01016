"""Makes the one object store that the settings ask for."""

from pydantic import SecretStr

from bloom.base.errors import ConfigurationError
from bloom.base.settings import ServerSettings
from bloom.blobs.endpoint import endpoint_url
from bloom.blobs.interface import BlobStore
from bloom.blobs.local import DirectoryBlobs
from bloom.blobs.s3 import S3Blobs


def open_blob_store(settings: ServerSettings) -> BlobStore | None:
    """The store of `MINIO_ENDPOINT`, else the directory `BLOOM_BLOB_DIR`, else None. The store is not asked anything yet.

    Raises ConfigurationError that names the variable which is missing or wrong.
    """
    if settings.minio_endpoint is None:
        return None if settings.blob_dir is None else DirectoryBlobs(settings.blob_dir)
    endpoint = endpoint_url(
        settings.minio_endpoint,
        port=settings.minio_port,
        port_given="minio_port" in settings.model_fields_set,
        use_ssl=settings.minio_use_ssl,
    )
    return open_bucket(
        endpoint,
        settings.minio_artifact_bucket,
        access_key=settings.minio_access_key,
        secret_key=settings.minio_secret_key,
        region=settings.minio_region,
        bucket_variable="MINIO_ARTIFACT_BUCKET",
    )


def open_bucket(
    endpoint: str,
    bucket: str,
    *,
    access_key: SecretStr | None,
    secret_key: SecretStr | None,
    region: str,
    bucket_variable: str,
) -> S3Blobs:
    """The bucket at the origin `endpoint`, which is named by `bucket_variable` in errors.

    Raises ConfigurationError that names the variable which is missing or wrong.
    """
    secrets = {"MINIO_ACCESS_KEY": access_key, "MINIO_SECRET_KEY": secret_key}
    access, secret = ("" if value is None else value.get_secret_value() for value in secrets.values())
    if missing := [name for name, value in zip(secrets, (access, secret), strict=True) if not value]:
        raise ConfigurationError(f"MINIO_ENDPOINT is set, so {' and '.join(missing)} must be set too")
    try:
        return S3Blobs(endpoint, bucket, access_key=access, secret_key=secret, region=region)
    except ConfigurationError as error:
        raise ConfigurationError(f"{bucket_variable} or MINIO_REGION: {error.message}") from None
