"""The ring of named keys: looked up in the database, remembered for seconds, dropped at news of a revocation."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from bloom.audit.model import key_actor
from bloom.base.errors import BloomError
from bloom.base.ids import KeyId, WorkerId
from bloom.base.roles import Role
from bloom.db.batcher import Batcher
from bloom.db.hub import KEYS, Hub
from bloom.db.pool import Connection, Database
from bloom.keys import store
from bloom.keys.model import has_form_of_key, key_digest
from bloom.keys.store import ValidKey
from bloom.web.auth import Principal

REMEMBERED_SEC = 5.0
"""The longest that a revoked key is still taken by another process, should it not hear of the revocation."""

MOST_REMEMBERED = 4096

_SUBJECT = "key:"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Remembered:
    principal: Principal
    until: float


class NamedKeyRing:
    """A `KeyRing` of the keys in the database. `clock` is monotonic, in seconds."""

    def __init__(self, database: Database, hub: Hub, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._hub = hub
        self._clock = clock
        # One query at a time, whatever number of strange keys is shown.
        self._lookups: Batcher[bytes | KeyId, ValidKey | None] = Batcher("find keys", self._find_many)
        self._remembered: dict[bytes | KeyId, _Remembered] = {}
        self._forgotten = 0
        self._used: set[KeyId] = set()
        # Of secrets that somebody still uses, and of keys in sessions: requests under way hold the events, and so does what
        # is remembered.
        self._withdrawals: WeakValueDictionary[bytes | KeyId, asyncio.Event] = WeakValueDictionary()

    async def find(self, presented: bytes) -> Principal | None:
        """Who holds the key, or None for one that is unknown, revoked, used up or expired. Raises Unavailable."""
        key = presented.decode("latin-1")
        if not has_form_of_key(key):
            return None
        return await self._find(key_digest(key))

    async def find_subject(self, subject: str) -> Principal | None:
        """Who holds the key that this subject stands for, as `find` does. Raises Unavailable."""
        return await self._find(KeyId(subject.removeprefix(_SUBJECT))) if subject.startswith(_SUBJECT) else None

    async def _find(self, wanted: bytes | KeyId) -> Principal | None:
        known = self._remembered.get(wanted)
        if known is not None and known.until > self._clock():
            return known.principal
        asked_at, forgotten = self._clock(), self._forgotten
        found = await self._lookups.submit(wanted)
        if found is None:
            return None
        principal = self._principal(wanted, found)
        self._used.add(found.id)
        # What was read before a revocation must not be remembered after it.
        if forgotten == self._forgotten:
            left = REMEMBERED_SEC if found.seconds_left is None else min(found.seconds_left, REMEMBERED_SEC)
            self._remember(wanted, _Remembered(principal, asked_at + left))
        return principal

    async def follow(self) -> None:
        """Until cancelled: `refresh` at each news of keys, and every five seconds, should there be none."""
        with self._hub.subscribe(KEYS) as news:
            while True:
                try:
                    await self.refresh()
                except BloomError as error:
                    _log.warning("keys cannot be looked at, trying again", extra={"code": error.code})
                except Exception:  # noqa: BLE001 - a background loop outlives whatever happens in a step
                    _log.exception("keys cannot be looked at, trying again")
                await news.wait(REMEMBERED_SEC)

    async def refresh(self) -> None:
        """Forget everybody, note which keys were used, and end the waiting requests of secrets that are valid no longer."""
        self._forgotten += 1
        self._remembered.clear()
        used, self._used = self._used, set()
        waiting = dict(self._withdrawals)
        if not used and not waiting:
            return
        async with self._database.transaction() as connection:
            if used:
                await store.used_many(connection, used, now=None)
            valid = await _valid(connection, list(waiting))
        for shown, withdrawn in waiting.items():
            if shown not in valid:
                withdrawn.set()

    async def _find_many(self, wanted: Sequence[bytes | KeyId]) -> Sequence[ValidKey | None]:
        async with self._database.transaction() as connection:
            found = await _valid(connection, wanted)
        return [found.get(each) for each in wanted]

    def _principal(self, shown: bytes | KeyId, key: ValidKey) -> Principal:
        withdrawn = self._withdrawals.get(shown)
        if withdrawn is None:
            withdrawn = self._withdrawals[shown] = asyncio.Event()
        # A join token is for a worker, but speaks for none.
        worker_id = WorkerId(key.worker_name) if key.role is Role.WORKER and key.worker_name is not None else None
        return Principal(key_actor(key.name), key.role, worker_id, withdrawn, f"{_SUBJECT}{key.id}")

    def _remember(self, wanted: bytes | KeyId, known: _Remembered) -> None:
        self._remembered.pop(wanted, None)
        if len(self._remembered) >= MOST_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[wanted] = known


async def _valid(connection: Connection, wanted: Sequence[bytes | KeyId]) -> Mapping[bytes | KeyId, ValidKey]:
    digests = [each for each in wanted if isinstance(each, bytes)]
    ids = [each for each in wanted if not isinstance(each, bytes)]
    return await store.find_valid(connection, digests, ids, now=None)
