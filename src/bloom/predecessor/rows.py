"""Values of the predecessor's rows, whatever type their columns have."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

Row = Mapping[str, Any]

_LATEST_MS = 253_402_300_799_000  # the end of the year 9999


def moment(row: Row, name: str) -> str | None:
    """Milliseconds since 1970 as a time that PostgreSQL reads; None for what is none."""
    value = row.get(name)
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LATEST_MS:
        return None
    return datetime.fromtimestamp(value / 1000, UTC).isoformat()


def text(row: Row, name: str) -> str | None:
    """A text; None for null."""
    value = row.get(name)
    return None if value is None else storable(value if isinstance(value, str) else json.dumps(value))


def whole(row: Row, name: str, *, least: int, most: int, default: int) -> int:
    """A whole number within bounds, the nearest one where it is outside; `default` for what is none."""
    value = row.get(name)
    try:
        return max(least, min(most, int(value)))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        return default


def structure(row: Row, name: str) -> Any:
    """What a column of JSON holds: json, jsonb, or text that is JSON; None for null and for what cannot be read."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return storable(value)


def fields(row: Row, name: str) -> dict[str, Any]:
    """An object of JSON; empty for anything else."""
    value = structure(row, name)
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


def texts(row: Row, name: str) -> list[str]:
    """An array of texts, as JSON or as an array of PostgreSQL; empty for anything else."""
    value = structure(row, name)
    items = cast(list[Any], value) if isinstance(value, list) else []
    return [item for item in items if isinstance(item, str)]


def storable(value: Any) -> Any:
    """`value` without what PostgreSQL cannot store in a text: NUL and lone surrogates, which a column of type json may hold."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {storable(name): storable(item) for name, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, Sequence):
        return [storable(item) for item in cast(Sequence[Any], value)]
    return value
