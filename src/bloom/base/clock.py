"""Times on the wire are integer epoch milliseconds; in the code they are aware datetimes in UTC.

The database judges leases (`now()`); a process measures durations with the monotonic clock only.
"""

from datetime import UTC, datetime


def to_ms(moment: datetime) -> int:
    """`moment` as integer epoch milliseconds."""
    return int(moment.timestamp() * 1000)


def to_ms_or_none(moment: datetime | None) -> int | None:
    """`moment` as integer epoch milliseconds, None kept."""
    return None if moment is None else to_ms(moment)


def from_ms(milliseconds: int) -> datetime:
    """The aware datetime (UTC) of integer epoch milliseconds."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
