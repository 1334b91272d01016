"""Moments that are typed: ISO 8601, in UTC unless they say otherwise."""

from datetime import UTC, datetime

from bloom.base.errors import InvalidInput


def moment(text: str, option: str) -> datetime:
    """The moment that `text` means. Raises InvalidInput that names `option`."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{option} must be a day or a time, such as 2026-11-27 or 2026-11-27T08:30:00Z") from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
