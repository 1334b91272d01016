"""The connection to Membridge as the domain sees it: what is saved, and what comes of it with the environment."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from bloom.upstream.address import DEFAULT_URL, origin_of

UNREADABLE = (
    "The saved admin key cannot be read: the secret that it was stored with is another one. Enter the key again."
)


class KeySource(StrEnum):
    """Where the admin key comes from."""

    SAVED = "saved"
    ENVIRONMENT = "environment"
    NONE = "none"
    UNREADABLE = "unreadable"
    """One is saved, and was sealed with a secret that is not there any more."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the environment says. Both have the form that `bloom.upstream.address` checks."""

    url: str | None = None
    admin_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Saved:
    """The row of `membridge_connection`. `admin_key` is sealed; the outcome is that of the last sync, by any replica."""

    url: str | None
    admin_key: bytes | None = field(repr=False)
    revision: int
    tested_at: datetime | None
    failures: int
    last_success: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """Which Membridge is called, and with which key."""

    url: str
    admin_key: str | None = field(repr=False)
    key_source: KeySource
    configured: bool
    """Whether anybody said that there is one; the default address alone is not called."""
    revision: int


def resolve(saved: Saved, environment: Environment, unseal: Callable[[bytes, str], str | None]) -> Target:
    """Who is called: saved before environment before default, for address and key each.

    A key goes only to the origin that it was given for: that of the environment is not shown to another one that was
    saved. `unseal` opens a saved key for an origin, or returns None.
    """
    url = saved.url or environment.url or DEFAULT_URL
    key, source = None, KeySource.NONE
    if saved.admin_key is not None:
        key = unseal(saved.admin_key, origin_of(url))
        source = KeySource.UNREADABLE if key is None else KeySource.SAVED
    elif environment.admin_key is not None and origin_of(url) == origin_of(environment.url or DEFAULT_URL):
        key, source = environment.admin_key, KeySource.ENVIRONMENT
    configured = saved.url is not None or environment.url is not None or environment.admin_key is not None
    return Target(url, key, source, configured, saved.revision)


def mask(key: str | None) -> str:
    """`key` for people: its first and last 4 characters, all hidden up to 8 (wire contract); its length is not told."""
    if key is None:
        return ""
    return "********" if len(key) <= 8 else f"{key[:4]}********{key[-4:]}"
