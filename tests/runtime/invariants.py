"""The product's own checker (`bloom db check`), as tests ask it."""

import asyncio

from tests.real_postgres import FreshDatabase

from bloom.tasks.service.checking import check


def check_invariants(database: FreshDatabase) -> None:
    """Fail, naming every invariant that does not hold and what breaks it."""
    assert not (broken := violations(database)), broken


def violations(database: FreshDatabase) -> dict[str, list[str]]:
    """What breaks which invariant, by its name."""
    return {broken.invariant: broken.ids for broken in asyncio.run(check(database.url))}
