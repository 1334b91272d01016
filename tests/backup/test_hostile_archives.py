"""Archives of somebody who means harm: whole, with right digests, and with names that would lead out of their places."""

import gzip
import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.backup.running import Bloom
from tests.real_postgres import FreshDatabase

from bloom.backup.archive import Head
from bloom.db.migrate import HEAD

Entry = tuple[str, bytes, bytes]
"""Name, content, type of an entry in the tar."""


def member(name: str, meta: object, data: bytes = b"stolen") -> list[Entry]:
    """The entries of a member, as `bloom backup create` would write them."""
    digest = hashlib.sha256(data).hexdigest().encode()
    contents = {"meta.json": json.dumps(meta).encode(), "data.000000": data, "sha256": digest}
    return [(f"{name}/{part}", content, tarfile.REGTYPE) for part, content in contents.items()]


def archive_of(entries: list[Entry], **said: Any) -> bytes:
    """A whole archive without encryption that holds these, and the summary that fits."""
    summary: dict[str, Any] = {"tables": {}, "objects": 0, "memory_objects": 0, "files": [], **said}
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content, kind in [*entries, *member("summary", summary, b"")]:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(content)
            info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(info, io.BytesIO(content))
    whole = Head(datetime.now(UTC), "1", HEAD, None).line() + gzip.compress(plain.getvalue())
    return whole + hashlib.sha256(whole).digest()


OUT = "../../outside"
HOSTILE: dict[str, bytes] = {
    "an object above the store": archive_of(member("objects/1", {"key": OUT, "size": 6}), objects=1),
    "an object at the root": archive_of(member("objects/1", {"key": "/outside", "size": 6}), objects=1),
    "an object without a key": archive_of(member("objects/1", {}), objects=1),
    "an object whose key is no text": archive_of(member("objects/1", {"key": ["x"]}), objects=1),
    "a memory above the bucket": archive_of(member("memory/1", {"key": f"projects/{OUT}"}), memory_objects=1),
    "a memory among other things": archive_of(member("memory/1", {"key": "backups/x"}), memory_objects=1),
    "a file above the directory": archive_of(member(f"files/{OUT}", {})),
    "a file at the root": archive_of(member("files//outside", {})),
    "a file that is none of ours": archive_of(member("files/authorized_keys", {})),
    "a member above all": archive_of(member(f"../{OUT}", {})),
    "a member at the root": archive_of(member("/outside", {})),
    "a kind that is none": archive_of(member("programs/x", {})),
    "a description that is none": archive_of(member("files/secret.key", ["x"])),
    "a summary that says nothing": archive_of([], tables=None),
    "a symbolic link": archive_of([("files/secret.key/meta.json", b"", tarfile.SYMTYPE)]),
    "a hard link": archive_of([("files/secret.key/meta.json", b"", tarfile.LNKTYPE)]),
    "a device": archive_of([("files/secret.key/meta.json", b"", tarfile.CHRTYPE)]),
    "a directory": archive_of([("../outside/", b"", tarfile.DIRTYPE)]),
}


def everything_below(directory: Path) -> dict[str, bytes | None]:
    return {
        str(each.relative_to(directory)): each.read_bytes() if each.is_file() else None
        for each in directory.rglob("*")
    }  # fmt: skip


def restore(bloom: Bloom, here: Path, content: bytes, database: str) -> Any:
    """`bloom backup restore` into directories below `here`, with --force."""
    (here / "bad.bloombackup").write_bytes(content)
    places = {"BLOOM_DATA_DIR": str(here / "a" / "data"), "BLOOM_BLOB_DIR": str(here / "a" / "objects")}
    return bloom("backup", "restore", here / "bad.bloombackup", "--force", "--json", DATABASE_URL=database, **places)


@pytest.mark.parametrize("what", HOSTILE)
def test_what_would_go_elsewhere_is_refused_and_nothing_is_written(
    bloom: Bloom, tmp_path: Path, database: FreshDatabase, what: str
) -> None:
    before = database.dump()
    refused = restore(bloom, tmp_path, HOSTILE[what], database.url)
    said = json.loads(refused.stderr)
    assert (refused.exit_code, said["code"]) == (1, "backup_damaged"), refused.output
    assert "The archive" in said["error"] and "Traceback" not in refused.output
    files = {name for name, content in everything_below(tmp_path).items() if content is not None}
    assert files == {"bad.bloombackup"}
    assert database.dump() == before


def test_such_an_archive_with_honest_names_is_restored(
    bloom: Bloom, tmp_path: Path, empty_database: FreshDatabase
) -> None:
    """The archives above are refused for their names, and for nothing else."""
    good = archive_of(
        member("objects/1", {"key": "artifacts/t/output", "size": 6}) + member("files/secret.key", {}, b"k"), objects=1
    )
    restored = restore(bloom, tmp_path, good, empty_database.url)
    assert restored.exit_code == 0, restored.output
    assert (tmp_path / "a" / "objects" / "artifacts" / "t" / "output").read_bytes() == b"stolen"
    assert (tmp_path / "a" / "data" / "secret.key").read_text() == "k"
