"""Verifying the chain of hashes: whether the audit log in the database is the one that was sealed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bloom.audit import store
from bloom.audit.chain import OTHER_HASH, Findings, check_seal, link
from bloom.audit.model import Position, Seal
from bloom.db.pool import Database

_SEALS_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, and how long the tail is that has no seal yet: entries, and seconds since the oldest was written."""

    found: Findings
    unsealed: int
    unsealed_sec: float | None


async def verify(
    database: Database, expected: Mapping[int, bytes], *, progress: Callable[[int], None] = lambda _: None
) -> Verdict:
    """Follow the chain from its beginning to its end, in short transactions. `expected`: hashes that are known from elsewhere,
    by the number of the entry that the chain had them after; those of exported files are looked at anyway. `progress` is
    told how many entries there were so far.
    """
    async with database.transaction() as connection:
        exported = {export.last_n: export.hash for export in await store.exports(connection)}
    found, position = Findings(), Position(0, 0)
    while True:
        async with database.transaction() as connection:
            _, seals = await store.seals(connection, found.last_n + 1, limit=_SEALS_AT_ONCE)
            for seal in seals:
                rows = {
                    at.id: digest for at, digest in await store.digests(connection, after=position, up_to=seal.last)
                }
                before = found.hash
                check_seal(found, seal, rows)
                if exported.pop(seal.last_n, seal.hash) != seal.hash:
                    found.add(seal.last_n, seal.ids[-1], "changed", OTHER_HASH)
                for n, known in expected.items():
                    if seal.first_n <= n <= seal.last_n and known != _hash_after(before, seal, n, rows):
                        found.add(n, seal.ids[n - seal.first_n], "changed", OTHER_HASH)
                position = seal.last
            if not seals:
                unsealed, age_sec = await store.tail(connection, after=position)
                break
        progress(found.last_n)
    for n in sorted({*exported, *(n for n in expected if n > found.last_n)}):
        found.add(n, None, "removed", "the chain had a hash after this entry, and has none now")
    return Verdict(found, unsealed, age_sec)


def _hash_after(before: bytes, seal: Seal, n: int, rows: Mapping[int, bytes]) -> bytes:
    own = before
    for entry_id in seal.ids[: n - seal.first_n + 1]:
        own = link(own, rows.get(entry_id, b""))
    return own
