"""The chain of hashes over the audit log: its canonical bytes, the lines of an export, and how both are verified.

docs/audit.md describes the same for whoever verifies an export without this program.
"""

import json
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from bloom.audit.model import Seal

FIELDS = ("id", "transaction", "at", "action", "entity_type", "entity_id", "actor", "detail")
"""What is hashed of an entry, in this order, each as text: `at` in microseconds since 1970, `detail` as it is stored."""

BEGINNING = bytes(32)
"""What the first entry is linked to."""

MARK_BYTES = 8
SHOWN = 100
"""So many problems are told one by one; the others are counted."""

OTHER_HASH = "the chain had another hash after this entry"

What = Literal["changed", "removed", "added", "unreadable", "seal"]


@dataclass(frozen=True, slots=True)
class Problem:
    """The entry number `n` of the chain is not what was sealed. `entry_id` where it is known."""

    n: int
    entry_id: int | None
    what: What
    says: str


@dataclass(slots=True)
class Findings:
    """How far a chain was followed, and what is wrong in it."""

    first_n: int = 0
    last_n: int = 0
    hash: bytes = BEGINNING
    count: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])
    broken: int = 0

    def add(self, n: int, entry_id: int | None, what: What, says: str) -> None:
        """Note a problem."""
        self.broken += 1
        if self.broken <= SHOWN:
            self.problems.append(Problem(n, entry_id, what, says))


def digest(entry: Mapping[str, str]) -> bytes:
    """The SHA-256 of an entry: of each of FIELDS its length in bytes of UTF-8, a colon, itself, a comma."""
    texts = [entry[name].encode() for name in FIELDS]
    return sha256(b"".join(b"%d:%b," % (len(text), text) for text in texts)).digest()


def link(previous: bytes, of_entry: bytes) -> bytes:
    """The chain's hash after an entry: the SHA-256 of the hash before it and the entry's digest."""
    return sha256(previous + of_entry).digest()


def line(n: int, entry: Mapping[str, str], previous: bytes, own: bytes) -> bytes:
    """The entry as a line of an export."""
    fields = {"n": n, **{name: entry[name] for name in FIELDS}, "previous": previous.hex(), "hash": own.hex()}
    # In ASCII: there are programs that take more characters than one for the end of a line.
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def sealed_lines(seal: Seal, previous: bytes, entries: Mapping[int, Mapping[str, str]]) -> Generator[tuple[int, bytes]]:
    """The lines of the entries of a seal, with their numbers, as they are now: verifying the lines tells what was changed."""
    for n, entry_id in enumerate(seal.ids, seal.first_n):
        if (entry := entries.get(entry_id)) is not None:
            own = link(previous, digest(entry))
            yield n, line(n, entry, previous, own)
            previous = own


def check_seal(found: Findings, seal: Seal, rows: Mapping[int, bytes]) -> None:
    """Hold the seal that comes next, and `rows` (digests by id, in order) found in its place, against the chain so far."""
    gap = seal.first_n != found.last_n + 1
    if gap:
        found.add(found.last_n + 1, None, "seal", f"there is no seal of the entries before number {seal.first_n}")
        rows = {entry_id: rows[entry_id] for entry_id in seal.ids if entry_id in rows}
    own = found.hash
    for of_entry in rows.values():
        own = link(own, of_entry)
    if gap or own != seal.hash or list(rows) != seal.ids:
        before = found.broken
        for index, entry_id in enumerate(seal.ids):
            n, of_entry = seal.first_n + index, rows.get(entry_id)
            if of_entry is None:
                found.add(n, entry_id, "removed", "the entry is not in its place")
            elif not of_entry.startswith(seal.marks[index * MARK_BYTES : (index + 1) * MARK_BYTES]):
                found.add(n, entry_id, "changed", "the entry is not what was sealed")
        for entry_id in sorted(rows.keys() - set(seal.ids)):
            found.add(seal.first_n, entry_id, "added", "the entry was not there when its neighbours were sealed")
        if found.broken == before and not gap:
            found.add(seal.first_n, None, "seal", "the seal of the entries from this one on was changed")
        else:  # the entries are not what was sealed: the seal tells what follows
            own = seal.hash
    found.first_n = found.first_n or seal.first_n
    found.count += len(rows)
    found.last_n, found.hash = seal.last_n, own


def check_lines(found: Findings, lines: Iterable[bytes]) -> Generator[None]:
    """Follow the chain through the lines of an export, on from what was `found` in an earlier part of it. Yields after each."""
    for text in lines:
        try:
            _check_line(found, json.loads(text))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            found.add(found.last_n + 1, None, "unreadable", "the line is not an entry of an export")
        yield


def _check_line(found: Findings, entry: Any) -> None:
    n, previous, own = entry["n"], bytes.fromhex(entry["previous"]), bytes.fromhex(entry["hash"])
    if type(n) is not int or n < 1:
        raise ValueError
    entry_id, of_entry = int(entry["id"]), digest(entry)
    expected = found.last_n + 1 if found.count else n
    before = found.hash if found.count else BEGINNING if n == 1 else previous
    if n < expected:
        found.add(n, entry_id, "added", "the entry is not in its place")
        return
    if n > expected:
        found.add(expected, None, "removed", f"the entries before number {n} are missing")
    elif previous != before:
        found.add(
            n, entry_id, "changed", "it does not follow the entry before it: one of the two is not what was sealed"
        )
    if link(previous, of_entry) != own:
        found.add(n, entry_id, "changed", "the entry is not what was sealed")
    found.first_n = found.first_n or n
    found.count += 1
    found.last_n, found.hash = n, own
