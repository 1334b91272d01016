"""What sync speaks of: versions of a database, the standing of a node, and where things lie in the bucket."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from bloom.membridge.model import canonical_id_of

MANIFEST_TABLES = ("observations", "session_summaries", "user_prompts")
"""The tables whose rows a manifest counts (wire contract, section 2.3)."""


class Role(StrEnum):
    """What a node is for a project."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Standing:
    """The role of this node in this term, and who says so. `reason` is for people. Times in epoch milliseconds.

    `takes_lead`: nobody leads, so a push or restore of this node takes the lead.
    """

    role: Role
    epoch: int | None
    primary: str | None
    expires_at_ms: int | None
    source: str
    reason: str = ""
    takes_lead: bool = False

    @property
    def may_push(self) -> bool:
        """Whether a push of this node is accepted, as far as can be told before it."""
        return self.role is Role.PRIMARY or self.takes_lead


@dataclass(frozen=True, slots=True)
class Version:
    """One pushed state. `key` is where its file lies; epoch 0 is a copy that a plain client pushed."""

    sha256: str
    epoch: int
    key: str
    db_size: int
    counts: dict[str, int] = field(default_factory=dict[str, int])
    node_id: str = ""
    based_on: str | None = None
    created_at_ms: int = 0
    current: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A whole copy of the local database and what is in it. `fingerprint` is that of the database it was taken from."""

    sha256: str
    db_size: int
    counts: dict[str, int]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Keys:
    """The objects of one project in the bucket (wire contract, section 2.3)."""

    project: str

    @property
    def canonical_id(self) -> str:
        """The id of the project."""
        return canonical_id_of(self.project)

    @property
    def _sqlite(self) -> str:
        return f"projects/{self.canonical_id}/sqlite"

    @property
    def plain(self) -> str:
        """The file that a plain client pulls."""
        return f"{self._sqlite}/claude-mem.db"

    @property
    def plain_hash(self) -> str:
        """Its hash, written after it."""
        return f"{self.plain}.sha256"

    @property
    def plain_manifest(self) -> str:
        """What is in it, written last."""
        return f"{self._sqlite}/manifest.json"

    @property
    def pointer(self) -> str:
        """What is current: decides where there is no control plane, else a copy of what that decided."""
        return f"{self._sqlite}/current.json"

    @property
    def versions(self) -> str:
        """Where the immutable versions lie."""
        return f"{self._sqlite}/versions"

    def version(self, epoch: int, sha256: str) -> str:
        """The file of a version."""
        return f"{self.versions}/{epoch}-{sha256}/claude-mem.db"

    @staticmethod
    def manifest_of(version_key: str) -> str:
        """The manifest beside the file of a version."""
        return version_key.rpartition("/")[0] + "/manifest.json"

    @property
    def lock(self) -> str:
        """Held during a push."""
        return f"projects/{self.canonical_id}/locks/active.lock"

    @property
    def lease(self) -> str:
        """Who leads, published for those who cannot ask the control plane."""
        return f"projects/{self.canonical_id}/leadership/lease.json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: `status` is stable, `message` is for people, `detail` goes into `--json`.

    `notes` are further lines for people, `warnings` what they should look at.
    """

    status: str
    message: str
    warnings: tuple[str, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """What lies beside the database; each is for its user alone."""

    database: Path

    def beside(self, suffix: str) -> Path:
        """A file of ours, named after the database."""
        return self.database.with_name(f"{self.database.name}.bloom-{suffix}")

    @property
    def state(self) -> Path:
        """What this node knows of its last sync."""
        return self.beside("sync.json")

    @property
    def lock(self) -> Path:
        """Held by the one sync of this database that runs on this machine."""
        return self.beside("sync.lock")

    @property
    def snapshot(self) -> Path:
        """The copy that is pushed."""
        return self.beside("snapshot")

    @property
    def download(self) -> Path:
        """What was pulled, before it is brought in."""
        return self.beside("download")

    @property
    def merged(self) -> Path:
        """Both memories in one, before it is brought in."""
        return self.beside("merged")

    @property
    def base(self) -> Path:
        """The version that both sides of a merge come from."""
        return self.beside("base")

    @property
    def incoming(self) -> Path:
        """What takes the place of a file that is no database."""
        return self.beside("new")

    @property
    def backups(self) -> Path:
        """What pulls replaced."""
        return self.beside("backups")
