"""Moments that a person types into a form."""

from datetime import UTC, datetime, timedelta


def moment_of(text: str, offset: str) -> datetime:
    """What a `datetime-local` field says. `offset`: minutes from the reader's zone to UTC, as scripts tell them; without any it
    is UTC. Raises ValueError, OverflowError for what is no moment.
    """
    minutes = int(offset) if offset.removeprefix("-").isdecimal() and len(offset) <= 5 else 0
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC) + timedelta(minutes=minutes)
    return moment.astimezone(UTC)
