"""What happened lately, minute by minute."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bloom.db.pool import Database
from bloom.tasks.store import activity
from bloom.tasks.store.activity import Minute, Spent

FOLD_ENTRIES = 5000
"""In one transaction: some tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class Activity:
    """`minutes` are the 60 up to now, each once, the oldest first; `spent` is since the day began."""

    minutes: Sequence[Minute]
    spent: Spent


class ActivityService:
    """Folds the audit log into minutes, and reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fold(self) -> None:
        """Bring the minutes up to now. One process does it at a time, the others have nothing to do."""
        folded = FOLD_ENTRIES
        while folded == FOLD_ENTRIES:
            async with self._database.transaction() as connection:
                folded = await activity.fold(connection, limit=FOLD_ENTRIES)

    async def forget(self) -> None:
        """Delete minutes that nobody looks at any more."""
        async with self._database.transaction() as connection:
            await activity.forget(connection, now=self._database.now)

    async def lately(self, *, day_began: datetime) -> Activity:
        """The last hour, and what was used since `day_began`."""
        now = (self._database.now or datetime.now(UTC)).replace(second=0, microsecond=0)
        first = now - timedelta(minutes=59)
        async with self._database.transaction() as connection:
            found = {each.minute: each for each in await activity.since(connection, first)}
            spent = await activity.spent_since(connection, day_began)
        moments = (first + timedelta(minutes=n) for n in range(60))
        return Activity([found.get(each) or Minute(each, 0, 0, 0, 0, 0, 0.0, 0, 0.0) for each in moments], spent)
