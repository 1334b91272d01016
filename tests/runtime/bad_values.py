"""What each kind of field must refuse."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """Values that a field refuses and some that it takes."""

    bad: tuple[Any, ...]
    good: tuple[Any, ...]


_NOT_TEXT: tuple[Any, ...] = (1, 1.5, True, [], {}, ["a"])
_NOT_NUMBER: tuple[Any, ...] = (True, False, "abc", "", "5", [], {})
_UNSTORABLE = ("NUL \x00 inside", "\x00")


def text(longest: int | None, *, empty: bool = False, null: bool = False) -> Kind:
    """Text of up to `longest` characters."""
    bad = [*_NOT_TEXT, *_UNSTORABLE]
    good: list[Any] = ["x", "ünïcode 🌱"]
    if longest is not None:
        bad.append("x" * (longest + 1))
        good.append("🌱" * longest)
    (good if empty else bad).append("")
    (good if null else bad).append(None)
    return Kind(tuple(bad), tuple(good))


def whole(least: int, most: int, *, null: bool = False) -> Kind:
    """A whole number from `least` to `most`."""
    bad = (*_NOT_NUMBER, least - 1, most + 1, 1.5, 10**300, -(10**300), -5 if least > -5 else least - 5)
    return Kind((*bad, *(() if null else (None,))), (least, most, *((None,) if null else ())))


def number(least: float, most: float, *, null: bool = False) -> Kind:
    """A number from `least` to `most`."""
    bad = (*_NOT_NUMBER, least - 0.5, most * 2, 1e300, 10**300)
    return Kind((*bad, *(() if null else (None,))), (least, most, (least + most) / 2, *((None,) if null else ())))


def one_of(*values: Any) -> Kind:
    """One of these."""
    return Kind((*_NOT_TEXT, "", "other", None, values[0] + " ", *_UNSTORABLE), values)


def many(item: Kind, most: int, *, null: bool = False, least: int = 0) -> Kind:
    """A list of up to `most` items."""
    bad: list[Any] = [
        *([value] for value in item.bad),
        [item.good[0]] * (most + 1),
        "abc",
        1,
        True,
        {},
        {"0": item.good[0]},
    ]
    good: list[Any] = [[item.good[0]] * most, list(item.good)]
    (bad if least else good).append([])
    (good if null else bad).append(None)
    return Kind(tuple(bad), tuple(good))


TRUTH = Kind((0, 1, "true", "", None, [], {}), (True, False))
OBJECT = Kind((1, True, "abc", [], None, [{}]), ({},))
CONTENT = Kind(
    (1, True, "abc", [], {"a\x00": 1}, {"a": "\x00"}, {"a": [{"b": "\x00"}]}),
    ({}, {"a": [1, None, {"b": "c"}]}, {"big": 10**300}),
)
"""An object of the sender's own making."""


def placed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`body` with `value` at the dotted `path`."""
    name, _, rest = path.partition(".")
    if not rest:
        return {**body, name: value}
    inner = body.get(name)
    if isinstance(inner, list):
        number, _, deeper = rest.partition(".")
        items: list[Any] = list(inner)  # pyright: ignore[reportUnknownArgumentType]
        items[int(number)] = placed(items[int(number)], deeper, value)
        return {**body, name: items}
    return {**body, name: placed(inner if isinstance(inner, dict) else {}, rest, value)}  # pyright: ignore[reportUnknownArgumentType]


def cases(fields: dict[str, Kind]) -> Iterator[tuple[str, Any]]:
    """Each field with each value that it must refuse."""
    for path, kind in fields.items():
        for value in kind.bad:
            yield path, value
