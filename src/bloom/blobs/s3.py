"""Any S3 store, addressed by path. MinIO is not assumed: the bucket is made with nothing but S3's own requests."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import httpx
import obstore
from obstore.store import S3Store

from bloom.base.errors import ConfigurationError
from bloom.blobs.endpoint import check_endpoint
from bloom.blobs.errors import BlobUnavailable
from bloom.blobs.interface import check_key
from bloom.blobs.transfer import TransferStore, _Source

LONGEST_PRESIGN_SEC = 7 * 24 * 3600
"""The longest life of a presigned URL (AWS Signature Version 4, query parameters)."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PRESIGN_BUCKET_SEC = 60


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a store, in seconds."""

    connect_sec: float = 3.0
    silence_sec: float = 30.0
    """Until a request is answered, and between two reads of an answer; a transfer that moves may take hours."""
    retries: int = 2
    retry_within_sec: float = 10.0


_PATIENCE = Patience()


class S3Blobs(TransferStore):
    """The objects of one bucket. The bucket is made when a write finds it missing."""

    scheme = "minio"
    _refusal = "The object store refuses access: its access key, secret key or policy does not allow this"
