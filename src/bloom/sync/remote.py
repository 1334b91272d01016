"""What decides which version of a project is current."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, cast

from bloom.blobs.errors import BlobMissing
from bloom.blobs.interface import BlobStore
from bloom.sync.errors import SyncError
from bloom.sync.model import MANIFEST_TABLES, Keys, Snapshot, Standing, Version

HASH_LENGTH = 64


class Remote(Protocol):
    """The control plane, or the bucket alone. Every method may raise SyncError and BlobUnavailable."""

    async def standing(self, snapshot: Snapshot | None, *, asks: bool) -> Standing:
        """The role of this node now; `asks`: it would lead, or go on leading. An error never makes it primary."""
        ...

    async def current(self) -> Version | None:
        """The version that is current; None when nothing was pushed yet."""
        ...

    async def move(self, version: Version, standing: Standing, *, force: bool) -> None:
        """Make the uploaded `version` current.

        Raises PushRefused unless this node leads in the epoch of `standing`, RemoteMoved when neither `based_on` nor the
        version itself is current and not `force`.
        """
        ...

    async def restore(self, version: Version, standing: Standing) -> None:
        """Make the old `version` current again. Raises PushRefused."""
        ...

    async def history(self) -> Sequence[Version]:
        """All versions, newest first."""
        ...

    async def forget(self, version: Version) -> None:
        """Take a version off the list. The current one stays."""
        ...

    async def publish(self, version: Version) -> None:
        """Tell those who know only the bucket that `version` is current."""
        ...


def parse_object(content: bytes, what: str) -> dict[str, Any]:
    """`content` as a JSON object. Raises SyncError that names `what`."""
    try:
        answer: object = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise SyncError(f"{what} in the bucket is not a JSON object", code="bad_object")
    return cast("dict[str, Any]", answer)


def encode_version(version: Version) -> bytes:
    """`version` as it stands in `current.json`."""
    fields = asdict(version)
    del fields["current"]
    return json.dumps(fields).encode()


def decode_version(content: bytes, what: str) -> Version:
    """The version that `encode_version` wrote. Raises SyncError that names `what`."""
    fields = parse_object(content, what)
    try:
        version = Version(**fields, current=True)
    except TypeError:
        version = None
    if version is None or not is_sha256(version.sha256) or type(version.epoch) is not int or not has_good_key(version):  # pyright: ignore[reportUnnecessaryComparison]
        raise SyncError(f"{what} in the bucket is not understood by this release", code="bad_object")
    return version


def is_sha256(value: object) -> bool:
    """Whether `value` is a SHA-256 in lower-case hex."""
    return isinstance(value, str) and len(value) == HASH_LENGTH and set(value) <= set("0123456789abcdef")


def has_good_key(version: Version) -> bool:
    """Whether the file of `version` lies where versions lie: nothing else is ever fetched or removed for one."""
    form = rf"projects/[0-9a-f]{{16}}/sqlite/(versions/[0-9]+-{version.sha256}/)?claude-mem\.db"
    return re.fullmatch(form, str(version.key)) is not None


def counts_of(manifest: dict[str, Any]) -> dict[str, int]:
    """What a manifest counts."""
    return {name: manifest[name] for name in (*MANIFEST_TABLES, "tables") if isinstance(manifest.get(name), int)}


async def read_hash(store: BlobStore, keys: Keys) -> str | None:
    """The hash that plain clients check against; None where there is none. Raises SyncError when it is no hash."""
    try:
        words = (await store.get(keys.plain_hash)).decode(errors="replace").split()
    except BlobMissing:
        return None
    if not words or not is_sha256(words[0].lower()):
        raise SyncError("claude-mem.db.sha256 in the bucket holds no hash", code="bad_object")
    return words[0].lower()


async def plain_version(store: BlobStore, keys: Keys) -> Version | None:
    """What plain clients find: current where no version was ever pushed. Raises SyncError while it is being written."""
    sha256 = await read_hash(store, keys)
    if sha256 is None:
        return None
    try:
        manifest = parse_object(await store.get(keys.plain_manifest), "manifest.json")
    except BlobMissing:
        manifest = {"sha256": sha256}
    if manifest.get("sha256") != sha256:
        raise SyncError("a push of another client is under way or was cut off: hash and manifest differ; try again")
    return replace(
        Version(sha256, 0, keys.plain, await store.size(keys.plain), counts_of(manifest)),
        node_id=str(manifest.get("source_host", "")),
        current=True,
    )
