"""Annotated types for the schemas of the slices: what every text on the wire has to be."""

from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from bloom.base.text import is_storable, is_storable_json


def storable(text: str) -> str:
    """`text` itself. Raises PydanticCustomError when PostgreSQL or UTF-8 cannot carry it."""
    if not is_storable(text):
        raise PydanticCustomError("unstorable_text", "Must not contain NUL characters or lone surrogates")
    return text


StorableText = Annotated[str, AfterValidator(storable)]
"""Text that PostgreSQL and UTF-8 can carry. Lengths, in characters, are added where it is used:
`Annotated[StorableText, Field(min_length=1, max_length=128)]`."""


def _storable_json(value: Any) -> Any:
    if not is_storable_json(value):
        raise PydanticCustomError("unstorable_text", "Must not contain NUL characters or lone surrogates")
    return value


StorableJson = Annotated[Any, AfterValidator(_storable_json)]
"""A JSON value each of whose texts PostgreSQL and UTF-8 can carry."""
