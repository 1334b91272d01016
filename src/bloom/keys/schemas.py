"""The wire of keys. Times are epoch milliseconds."""

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, model_validator
from pydantic_core import PydanticCustomError

from bloom.base.clock import to_ms, to_ms_or_none
from bloom.base.fields import StorableText
from bloom.base.roles import Role
from bloom.keys.model import Key, KeyState

LONGEST_LIFE_SEC = 10 * 366 * 86_400
OVERLAP_SEC = 86_400
LONGEST_OVERLAP_SEC = 366 * 86_400


def _shown_as_it_is(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise PydanticCustomError("unprintable", "Must be printable, without spaces around it")
    return name


Name = Annotated[StorableText, AfterValidator(_shown_as_it_is), Field(min_length=1, max_length=128)]


class Request(BaseModel):
    """Base of what is received: unknown fields are ignored, as everywhere on this wire."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)


class CreateKey(Request):
    """POST /keys. A worker's key names its worker; a join token may. A key without an end is valid until it is revoked, a
    join token for an hour.
    """

    name: Name
    role: Role
    worker_name: Name | None = None
    expires_in_sec: Annotated[StrictInt, Field(ge=1, le=LONGEST_LIFE_SEC)] | None = None
    expires_at: Annotated[StrictInt, Field(ge=0, le=253_402_300_799_999)] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.role is Role.WORKER and self.worker_name is None:
            raise PydanticCustomError("worker_name_missing", "worker_name must say which worker the key is for")
        if self.worker_name is not None and self.role not in (Role.WORKER, Role.JOIN):
            raise PydanticCustomError("worker_name_unused", "worker_name is for the roles worker and join")
        if self.expires_in_sec is not None and self.expires_at is not None:
            raise PydanticCustomError("two_ends", "Give expires_in_sec or expires_at, not both")
        return self


class RotateKey(Request):
    """POST /keys/{id}/rotate. `overlap_sec`: for how long the secret that it replaces is still taken. Without `expires_in_sec`
    the new one lives as long as that one was to live.
    """

    overlap_sec: Annotated[StrictInt, Field(ge=0, le=LONGEST_OVERLAP_SEC)] = OVERLAP_SEC
    expires_in_sec: Annotated[StrictInt, Field(ge=1, le=LONGEST_LIFE_SEC)] | None = None


class Join(Request):
    """POST /keys/join, with a join token as the key. `name` is what the worker is to be called; `hostname` is taken where
    neither it nor the token says.
    """

    name: Name | None = None
    hostname: Name | None = None


class KeyOut(BaseModel):
    """A key as its administrator reads it: never the key, nor its digest."""

    id: str
    name: str
    role: Role
    worker_name: str | None
    starts_with: str
    state: KeyState
    created_at: int
    created_by: str
    expires_at: int | None
    last_used_at: int | None
    used_up_at: int | None
    revoked_at: int | None
    rotated_at: int | None = None
    previous_until: int | None = None


class CreatedKey(KeyOut):
    """The one answer that holds a key. `asked_for`: false while the runtime asks nobody for a key (development mode)."""

    key: str
    asked_for: bool


def key_fields(key: Key) -> dict[str, object]:
    """`key` as the fields of a KeyOut."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "worker_name": key.worker_name,
        "starts_with": key.starts_with,
        "state": key.state,
        "created_at": to_ms(key.created_at),
        "created_by": key.created_by,
        "expires_at": to_ms_or_none(key.expires_at),
        "last_used_at": to_ms_or_none(key.last_used_at),
        "used_up_at": to_ms_or_none(key.used_up_at),
        "revoked_at": to_ms_or_none(key.revoked_at),
        "rotated_at": to_ms_or_none(key.rotated_at),
        "previous_until": to_ms_or_none(key.previous_until),
    }
