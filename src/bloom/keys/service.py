"""Creating, listing, rotating and revoking keys, and exchanging a join token for a worker's key."""

import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass

from bloom.audit.model import key_actor
from bloom.base.clock import from_ms
from bloom.base.errors import BloomError, Conflict, Forbidden, InvalidInput, NotFound, Unauthorized
from bloom.base.ids import KeyId, new_key_id
from bloom.base.roles import Role
from bloom.db.hub import KEYS, notify
from bloom.db.pool import Connection, Database
from bloom.keys import store
from bloom.keys.model import JOIN_SEC, Key, key_digest, make_key, starts_with
from bloom.keys.ring import NamedKeyRing
from bloom.keys.schemas import CreateKey, Join, RotateKey
from bloom.keys.store import JoinToken, NewKey, NewSecret

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key: what is known of it, and itself, which is told once and kept nowhere."""

    key: Key
    secret: str

    def __repr__(self) -> str:
        return f"MadeKey({self.key.name!r})"


class KeyService:
    """Use cases of named keys."""

    def __init__(self, database: Database, ring: NamedKeyRing) -> None:
        self._database = database
        self._ring = ring

    async def create(self, request: CreateKey, *, actor: str) -> MadeKey:
        """Make a key. Raises Conflict (`key_name_taken`), or InvalidInput for an end that is over."""
        life_sec = request.expires_in_sec
        if request.role is Role.JOIN and life_sec is None and request.expires_at is None:
            life_sec = JOIN_SEC
        async with self._database.transaction() as connection:
            made = await _insert(
                connection,
                request.name,
                request.role,
                request.worker_name,
                actor=actor,
                expires_in_sec=life_sec,
                expires_at_ms=request.expires_at,
            )
            if made is None:
                raise Conflict(
                    "A key has, or had, this name; names are never used again, for the audit log tells keys by them.",
                    code="key_name_taken",
                )
            if made.key.expired:
                raise InvalidInput("The end is over", fields={"expires_at": ["Must lie ahead"]})
        return made

    async def page(self, *, before: int | None, limit: int) -> list[Key]:
        """Up to `limit` keys older than the one with `seq` `before`, newest first; revoked ones too."""
        async with self._database.transaction() as connection:
            return await store.page(connection, before=before, limit=limit, now=None)

    async def get(self, key_id: KeyId) -> Key:
        """One key. Raises NotFound."""
        async with self._database.transaction() as connection:
            key = await store.by_id(connection, key_id, now=None)
        if key is None:
            raise key_not_found(key_id)
        return key

    async def revoke(self, key_id: KeyId, *, actor: str) -> Key:
        """End a key: here at once, in other processes as soon as they hear of it. Repeating it changes nothing.

        Raises NotFound.
        """
        async with self._database.transaction() as connection:
            if await store.revoke(connection, key_id, actor=actor, now=None):
                await notify(connection, [KEYS])
            key = await store.by_id(connection, key_id, now=None)
        if key is None:
            raise key_not_found(key_id)
        await self._tell_ring()
        return key

    async def rotate(self, key_id: KeyId, request: RotateKey, *, actor: str) -> MadeKey:
        """Give a key a new secret. The one before is taken until the overlap is over; one that was still valid from an earlier
        rotation ends now. Raises NotFound, or Conflict (`key_not_active`).
        """
        async with self._database.transaction() as connection:
            known = await store.by_id(connection, key_id, now=None)
            if known is None:
                raise key_not_found(key_id)
            secret = make_key(known.role)
            key = await store.rotate(
                connection,
                key_id,
                NewSecret(key_digest(secret), starts_with(secret)),
                overlap_sec=request.overlap_sec,
                expires_in_sec=request.expires_in_sec,
                actor=actor,
                now=None,
            )
            if key is None:
                raise Conflict(
                    "Only a key that is valid can be rotated, and no join token: make a new one.", code="key_not_active"
                )
            await notify(connection, [KEYS])
        await self._tell_ring()
        return MadeKey(key, secret)

    async def join(self, token: str, request: Join) -> MadeKey:
        """Exchange a join token for the key of a worker; the token is used up. When this is refused it is not.

        Raises Unauthorized (`join_token_invalid`: used up, revoked or expired), Forbidden (`join_token_needed`), Conflict
        (`join_token_of_another_worker`, `worker_name_taken`), InvalidInput when nobody says how the worker is called.
        """
        async with self._database.transaction() as connection:
            used = await store.use_up(connection, key_digest(token), wanted=request.name, now=None)
            if used is None:
                raise await self._refusal(connection, token)
            worker_name = await self._name_of(connection, used, request)
            made = None
            while made is None:  # a name that is taken is all but impossible
                name = f"{worker_name}-{secrets.token_hex(4)}"
                made = await _insert(
                    connection, name, Role.WORKER, worker_name, actor=key_actor(used.name), join_token=used.id
                )
            await notify(connection, [KEYS])
        await self._tell_ring()
        return made

    async def _name_of(self, connection: Connection, token: JoinToken, request: Join) -> str:
        if token.worker_name is not None:
            return token.worker_name
        chosen = request.name or request.hostname
        if chosen is None:
            raise InvalidInput("The token leaves the name open", fields={"name": ["Required with this token"]})
        if not await store.take_worker_name(connection, chosen):
            raise Conflict(
                f"There is, or was, a worker {chosen!r}. Choose another name, or use a token that was made for this one.",
                code="worker_name_taken",
            )
        return chosen

    async def _refusal(self, connection: Connection, token: str) -> BloomError:
        known = await store.join_token(connection, key_digest(token), now=None)
        if known is None:
            return Forbidden("This needs a join token, made by `bloom key create --join`.", code="join_token_needed")
        worker_name, valid = known
        if valid:
            return Conflict(
                f"This token is for the worker {worker_name!r} and no other.", code="join_token_of_another_worker"
            )
        return Unauthorized("This join token was used up or revoked, or has expired.", code="join_token_invalid")

    async def _tell_ring(self) -> None:
        # It has forgotten all keys even if the database goes away meanwhile.
        with suppress(BloomError):
            await self._ring.refresh()


async def _insert(
    connection: Connection,
    name: str,
    role: Role,
    worker_name: str | None,
    *,
    actor: str,
    expires_in_sec: int | None = None,
    expires_at_ms: int | None = None,
    join_token: KeyId | None = None,
) -> MadeKey | None:
    secret = make_key(role)
    new = NewKey(
        id=new_key_id(),
        name=name,
        role=role,
        worker_name=worker_name,
        starts_with=starts_with(secret),
        digest=key_digest(secret),
        expires_at=None if expires_at_ms is None else from_ms(expires_at_ms),
        expires_in_sec=expires_in_sec,
        join_token=join_token,
    )
    key = await store.insert(connection, new, actor=actor, now=None)
    return None if key is None else MadeKey(key, secret)


def key_not_found(key_id: str) -> NotFound:
    """There is no such key."""
    return NotFound(f"There is no key {key_id!r}.", code="key_not_found")
