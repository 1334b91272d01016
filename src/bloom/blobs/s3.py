"""Any S3 store, addressed by path. Nothing but S3's own requests is used, so it need not be MinIO."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import httpx
import obstore
from obstore.exceptions import PreconditionError
from obstore.store import S3Store

from bloom.base.errors import ConfigurationError
from bloom.blobs.errors import BlobUnavailable
from bloom.blobs.interface import StoredObject, check_key
from bloom.blobs.transfer import TransferStore
from bloom.blobs.upload import UploadSource

LONGEST_PRESIGN_SEC = 7 * 24 * 3600
"""The longest life of a presigned URL (AWS Signature Version 4, authentication by query parameters)."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_BUCKET_REQUEST_SEC = 60
_CREATE_ELSEWHERE = (
    '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a store, in seconds."""

    connect_sec: float = 3.0
    silence_sec: float = 30.0
    """For the answer to a request, and between two reads of it: a transfer that moves may take as long as it needs."""
    retries: int = 2
    retry_within_sec: float = 10.0
    """No request is repeated later than this after its first attempt."""


class S3Blobs(TransferStore):
    """The objects of one bucket. The bucket is made when a write finds it missing, at first use or later."""

    scheme = "minio"
    # ListObjectsV2 (S3 API Reference): in the order of the keys' UTF-8 bytes.
    _lists_by_key = True
    _refusal = "The object store refuses access: look at its access key, secret key and policy"

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        *,
        access_key: str,
        secret_key: str,
        region: str = "us-east-1",
        patience: Patience | None = None,
    ) -> None:
        """`endpoint` is an origin such as `http://host:9000`. Asks the store nothing.

        Raises ConfigurationError for a name that cannot be a bucket's (S3 User Guide, bucket naming rules) or a region's.
        """
        if not _REGION.fullmatch(region):
            raise ConfigurationError("The region must be lower-case letters, digits and hyphens, such as us-east-1")
        if not _BUCKET.fullmatch(bucket) or ".." in bucket:
            raise ConfigurationError(
                "The bucket's name must be 3 to 63 lower-case letters, digits, dots and hyphens, such as bloom-artifacts"
            )
        self._patience = patience = patience or Patience()
        self._bucket = bucket
        self._region = region
        self._making = asyncio.Lock()
        self._s3 = S3Store(
            bucket,
            # Both endpoints, and a provider: else variables of the AWS tools (AWS_ENDPOINT_URL_S3, AWS_SESSION_TOKEN)
            # mix with what is configured here.
            config={
                "endpoint": endpoint,
                "aws_endpoint_url_s3": endpoint,
                "region": region,
                "virtual_hosted_style_request": False,
                "skip_signature": False,
                # Not every store has the bulk request.
                "disable_bulk_delete": True,
            },
            credential_provider=lambda: {
                "access_key_id": access_key,
                "secret_access_key": secret_key,
                "token": None,
                "expires_at": None,
            },
            client_options={
                "allow_http": True,
                "connect_timeout": timedelta(seconds=patience.connect_sec),
                "read_timeout": timedelta(seconds=patience.silence_sec),
                # The limit of a whole transfer; silence is what ends one.
                "timeout": timedelta(hours=12),
            },
            retry_config={
                "max_retries": patience.retries,
                "retry_timeout": timedelta(seconds=patience.retry_within_sec),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=1),
                    "base": 2,
                },
            },
        )
        super().__init__(self._s3)

    async def presign_get(self, key: str, *, expires_sec: int) -> str:
        """See BlobStore.presign_get. Raises ValueError for a time outside of 1 to 604,800 seconds."""
        check_key(key)
        if not 1 <= expires_sec <= LONGEST_PRESIGN_SEC:
            raise ValueError(f"a presigned URL lives 1 to {LONGEST_PRESIGN_SEC} seconds")
        with self._errors():
            return await obstore.sign_async(self._s3, "GET", key, timedelta(seconds=expires_sec))

    def url(self, key: str) -> str:
        """See BlobStore.url."""
        check_key(key)
        return f"minio://{self._bucket}/{key}"

    async def _send(self, key: str, data: bytes | UploadSource, content_type: str | None) -> None:
        try:
            await super()._send(key, data, content_type)
        except FileNotFoundError:
            # No bucket. A multipart upload is opened before its source is read, so nothing of it is lost.
            if isinstance(data, UploadSource) and data.begun:
                raise
            await self._make_bucket()
            await super()._send(key, data, content_type)

    async def _send_if(self, key: str, data: bytes, tag: str | None) -> None:
        try:
            await super()._send_if(key, data, tag)
        except FileNotFoundError:
            if tag is not None:
                raise PreconditionError from None  # S3's answer to If-Match on a missing object
            await self._make_bucket()
            await super()._send_if(key, data, tag)
        except PreconditionError:
            # Ceph's gateway compares the bare tag; to any other server this is the same question once more.
            if tag is None or not tag.startswith('"'):
                raise
            await super()._send_if(key, data, tag.strip('"'))

    async def page(self, prefix: str, *, after: str | None, limit: int) -> Sequence[StoredObject]:
        """See BlobStore.page."""
        try:
            return await super().page(prefix, after=after, limit=limit)
        except BlobUnavailable:
            async with self._client() as client:
                if await self._ask_bucket(client, "HEAD") == 404:
                    return []
            raise

    def _client(self) -> httpx.AsyncClient:
        verify = httpx.create_ssl_context()
        verify.load_default_certs()
        timeout = httpx.Timeout(self._patience.silence_sec, connect=self._patience.connect_sec)
        return httpx.AsyncClient(timeout=timeout, verify=verify)

    async def _make_bucket(self) -> None:
        async with self._making, self._client() as client:
            if await self._ask_bucket(client, "HEAD") != 404:
                return
            # 409: another process was faster.
            if await self._ask_bucket(client, "PUT") not in (200, 409):
                raise BlobUnavailable("The bucket is missing in the object store and could not be made")

    async def _ask_bucket(self, client: httpx.AsyncClient, method: Literal["HEAD", "PUT"]) -> int:
        """The status of a request for the bucket itself: obstore has no call for that, but can sign it."""
        body = None
        if method == "PUT" and self._region != "us-east-1":
            # CreateBucket (S3 API Reference): outside of us-east-1 the region has to be named, in it it must not be.
            body = _CREATE_ELSEWHERE.format(region=self._region)
        url = await obstore.sign_async(self._s3, method, "", timedelta(seconds=_BUCKET_REQUEST_SEC))
        try:
            return (await client.request(method, url, content=body)).status_code
        except httpx.HTTPError:
            # Without its cause: that holds the signed URL.
            raise BlobUnavailable("The object store does not answer, or fails") from None
