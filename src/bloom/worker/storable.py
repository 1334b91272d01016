"""JSON that the runtime can store: what a child process prints may hold what neither PostgreSQL nor JSON takes."""

import json
import math
from collections.abc import Mapping
from typing import Any, cast

from bloom.base.text import is_storable, make_storable


def to_storable_json(value: Any) -> str:
    """`value` as compact JSON in UTF-8's reach.

    NUL and lone surrogates become U+FFFD, numbers that are not finite null, and what JSON does not know its text.
    """
    try:
        text = _dump(value)
    except (TypeError, ValueError):
        return _dump(_clean(value))
    return text if "\\u0000" not in text and is_storable(text) else _dump(_clean(value))


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _clean(value: object) -> object:
    match value:
        case str():
            return make_storable(value)[0]
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int():
            return value
        case Mapping():
            pairs = cast("Mapping[object, object]", value).items()
            return {make_storable(str(key))[0]: _clean(item) for key, item in pairs}
        case list() | tuple():
            return [_clean(item) for item in cast("list[object]", value)]
        case _:
            return make_storable(str(value))[0]
