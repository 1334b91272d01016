"""The worlds that syncs are tested in: a directory, moto's S3 server, and the S3 of `BLOOM_TEST_S3_URL` if there is one.

That is a URL `http://ACCESS_KEY:SECRET_KEY@host:port/bucket`. What the tests write there lies below `projects/`, under ids
of their own.
"""

import os
import secrets
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from nodes import SECRET, World, Zygote
from tests.real_membridge import Membridge

GIVEN = os.environ.get("BLOOM_TEST_S3_URL")
STORES = ["directory", "s3", *(["given"] if GIVEN else [])]


def store_environment(store: str, request: pytest.FixtureRequest, directory: Path) -> dict[str, str]:
    """The variables that name the store."""
    if store == "directory":
        return {"BLOOM_SYNC_DIR": str(directory / "store")}
    if store == "s3":
        endpoint, keys, bucket = request.getfixturevalue("s3_endpoint"), ("AKTEST", SECRET), "memory"
    else:
        parts = urlsplit(GIVEN or "")
        endpoint = f"{parts.scheme}://{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 9000)}"
        keys = unquote(parts.username or ""), unquote(parts.password or "")
        bucket = parts.path.strip("/") or "bloom-test"
    return {
        "MINIO_ENDPOINT": endpoint,
        "MINIO_ACCESS_KEY": keys[0],
        "MINIO_SECRET_KEY": keys[1],
        "MINIO_BUCKET": bucket,
    }


def make_world(request: pytest.FixtureRequest, zygote: Zygote, directory: Path, store: str, decider: str) -> World:
    """A world with a project of its own; `decider` is `plane` or `bucket`."""
    environment = store_environment(store, request, directory)
    plane: Membridge | None = request.getfixturevalue("plane") if decider == "plane" else None
    if plane is not None:
        environment |= {"MEMBRIDGE_URL": plane.url, "MEMBRIDGE_ADMIN_KEY": plane.key}
    return World(zygote, directory, environment, plane, f"project-{secrets.token_hex(4)}")
