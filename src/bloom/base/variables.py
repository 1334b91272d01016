"""What is known of a setting by its field: the variables it is read from, what would be right, how it may be shown."""

import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AliasChoices, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

MASK = "********"


def variables_of(field: FieldInfo) -> tuple[str, ...]:
    """The variables that the setting is read from; the first that is set wins."""
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (str(alias),)


def variable_in_use(field: FieldInfo, environment: Mapping[str, str]) -> str | None:
    """The variable that the setting is read from now; None: it has its default. Empty means: not set."""
    return next((name for name in variables_of(field) if environment.get(name)), None)


def is_secret(field: FieldInfo) -> bool:
    """Whether the value may not be shown."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def shown(value: Any) -> str | int | float | bool | None:
    """`value` as it may be written: a secret as stars, an address without its password."""
    if isinstance(value, SecretStr):
        return _without_password(value.get_secret_value(), otherwise=MASK)
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return _without_password(text, otherwise=MASK) if "@" in text else text


def _without_password(text: str, *, otherwise: str) -> str:
    try:
        url = urlsplit(text)
        host = f"{url.hostname}:{url.port}" if url.port else url.hostname
    except ValueError:
        return otherwise
    # A query can hold a password too.
    if not url.scheme or not host or url.query or url.fragment:
        return otherwise
    user = f"{url.username}:{MASK}@" if url.password else f"{url.username}@" if url.username else ""
    return f"{url.scheme}://{user}{host}{url.path}"


def right_value(field: FieldInfo) -> str:
    """What a value of this setting is: `a whole number from 1 to 64`."""
    kind = _without_none(field.annotation)
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in get_args(kind))
    if kind is bool:
        return "true or false (1 or 0)"
    if kind is int or kind is float:
        return ("a whole number" if kind is int else "a number") + _range(field)
    if kind is Path:
        return "a path"
    return "text" + _range(field, "min_length", "max_length", " characters")


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _range(field: FieldInfo, least: str = "ge", most: str = "le", unit: str = "") -> str:
    bounds = {
        name: getattr(each, name) for each in field.metadata for name in (least, most, "gt") if hasattr(each, name)
    }
    low, high, above = bounds.get(least), bounds.get(most), bounds.get("gt")
    if low is not None:
        return f" from {low} to {high}{unit}" if high is not None else f" of at least {low}{unit}"
    if above is not None:
        return f" above {above}" + ("" if high is None else f", at most {high}")
    return "" if high is None else f" of at most {high}{unit}"


def describe_problem(cls: type[BaseSettings], problem: Mapping[str, Any]) -> tuple[str, str]:
    """The variable that one of pydantic's problems is about, and what would be right; never what was given."""
    alias = str(problem["loc"][0])
    for name, field in cls.model_fields.items():
        if alias == name or alias in variables_of(field):
            variable = variable_in_use(field, os.environ) or alias
            if problem["type"] == "value_error":
                return variable, str(problem["ctx"]["error"])
            return variable, f"must be {right_value(field)}"
    return alias, "is not right"
