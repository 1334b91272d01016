"""Keys as the domain sees them, and what makes one hard to guess and safe to look up."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from bloom.base.ids import KeyId
from bloom.base.roles import Role

JOIN_SEC = 3600
"""How long a join token can be used, unless its maker says otherwise."""

_SECRET_BYTES = 32
_HINT_CHARS = 4
# 32 random bytes are 43 characters of base64url (RFC 4648, section 5) without padding.
_FORM = re.compile(rf"bloom_(?:{'|'.join(Role)})_[A-Za-z0-9_-]{{43}}")


class KeyState(StrEnum):
    """Whether a key is taken, and if not, why."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    USED_UP = "used_up"


@dataclass(frozen=True, slots=True)
class Key:
    """One row of `keys`; `expired` as the database's clock says. The key itself is nowhere."""

    id: KeyId
    seq: int
    name: str
    role: Role
    worker_name: str | None
    starts_with: str
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    used_up_at: datetime | None
    revoked_at: datetime | None
    rotated_at: datetime | None
    previous_until: datetime | None
    expired: bool

    @property
    def state(self) -> KeyState:
        """Whether it is taken."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.used_up_at is not None:
            return KeyState.USED_UP
        return KeyState.EXPIRED if self.expired else KeyState.ACTIVE


def make_key(role: Role) -> str:
    """A new key, 256 random bits: `bloom_<role>_<43 characters>`. Its beginning tells people and scanners what it is."""
    return f"bloom_{role}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def starts_with(key: str) -> str:
    """The beginning of `key` by which its owner recognises it in a list; 232 bits stay unknown."""
    return key[: -43 + _HINT_CHARS]


def has_form_of_key(presented: str) -> bool:
    """Whether `presented` can be a key at all; what cannot is not looked up."""
    return _FORM.fullmatch(presented) is not None


def key_digest(key: str) -> bytes:
    """What is stored of a key, and by which it is found.

    A plain SHA-256 is right here: slow and salted hashes make up for secrets that people choose, and nobody can try
    2^256 keys. Finding a key by its digest takes a time that depends on the digests in the index alone: who does not know
    a key cannot choose a digest near to its own, so that the time tells nothing, and nothing else has to be compared.
    """
    return hashlib.sha256(key.encode()).digest()
