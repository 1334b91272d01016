"""Says what would be right where a request failed validation; never what was sent.

The form is the one of the wire contract: `{"formErrors": [...], "fieldErrors": {"field": ["message"]}}`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic_core import core_schema

_MOST_ERRORS = 100
_REQUEST_PARTS = frozenset({"body", "query", "path", "header", "cookie"})
# Keys of a free mapping are the caller's words: whatever does not look like a name of ours is left out.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_KNOWN = frozenset(str(name) for name in get_args(core_schema.ErrorType))

_Message = Callable[[Mapping[str, Any]], str]


def _plural(count: Any, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _number(bound: Any) -> Any:
    # The bounds of a float field are floats, whatever the schema says: 60.0 is told as 60.
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


_TEXTS: dict[str, str] = {
    "missing": "Required",
    "json_type": "Must be JSON text",
    "model_type": "Must be an object",
    "model_attributes_type": "Must be an object",
    "dict_type": "Must be an object",
    "mapping_type": "Must be an object",
    "dataclass_type": "Must be an object",
    "list_type": "Must be a list",
    "tuple_type": "Must be a list",
    "set_type": "Must be a list",
    "string_type": "Must be text",
    "string_unicode": "Must be valid Unicode text",
    "string_not_ascii": "Must contain ASCII characters only",
    "string_pattern_mismatch": "Must be of the documented pattern",
    "bool_type": "Must be true or false",
    "bool_parsing": "Must be true or false",
    "int_type": "Must be a whole number",
    "int_parsing": "Must be a whole number",
    "int_from_float": "Must be a whole number",
    "int_parsing_size": "Must be a smaller number",
    "float_type": "Must be a number",
    "float_parsing": "Must be a number",
    "finite_number": "Must be a finite number",
    "none_required": "Must be null",
    "extra_forbidden": "Must be left out",
    "url_type": "Must be a URL such as https://host.example:8000",
    "url_parsing": "Must be a URL such as https://host.example:8000",
    "url_syntax_violation": "Must be a URL such as https://host.example:8000",
    "uuid_type": "Must be a UUID",
    "uuid_parsing": "Must be a UUID",
}

_WITH_CONTEXT: dict[str, _Message] = {
    "greater_than": lambda ctx: f"Must be greater than {_number(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"Must be at least {_number(ctx['ge'])}",
    "less_than": lambda ctx: f"Must be less than {_number(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"Must be at most {_number(ctx['le'])}",
    "multiple_of": lambda ctx: f"Must be a multiple of {ctx['multiple_of']}",
    "string_too_short": lambda ctx: f"Must have at least {_plural(ctx['min_length'], 'character')}",
    "string_too_long": lambda ctx: f"Must have at most {_plural(ctx['max_length'], 'character')}",
    "too_short": lambda ctx: f"Must have at least {_plural(ctx['min_length'], 'item')}",
    "too_long": lambda ctx: f"Must have at most {_plural(ctx['max_length'], 'item')}",
    "literal_error": lambda ctx: f"Must be {ctx['expected']}",
    "enum": lambda ctx: f"Must be {ctx['expected']}",
    "url_scheme": lambda ctx: f"Must be a URL that begins with {ctx['expected_schemes']}",
    "url_too_long": lambda ctx: f"Must have at most {_plural(ctx['max_length'], 'character')}",
    # Raised by the slices' own validators, whose words are ours and hold no input (base.errors).
    "value_error": lambda ctx: str(ctx["error"]),
    "assertion_error": lambda ctx: str(ctx["error"]),
}


def _message(problem: Mapping[str, Any]) -> str:
    kind = str(problem["type"])
    if (text := _TEXTS.get(kind)) is not None:
        return text
    if kind in ("too_short", "too_long") and isinstance(problem.get("input"), str):
        # What pydantic calls the length of a text whose type has a validator of its own.
        kind = f"string_{kind}"
    if (build := _WITH_CONTEXT.get(kind)) is not None:
        return build(problem.get("ctx") or {})
    # A PydanticCustomError of a schema: its words are ours. What pydantic would say of the rest may quote the input.
    return "Not of the required form" if kind in _KNOWN else str(problem["msg"])


def _field(location: Sequence[int | str]) -> str:
    parts: list[str] = []
    for part in location[1:] if location and location[0] in _REQUEST_PARTS else location:
        if isinstance(part, str) and not _NAME.fullmatch(part):
            break
        parts.append(str(part))
    return ".".join(parts)


def describe_problems(problems: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The `error` object of a 400 for pydantic's `problems` (the dicts of `ValidationError.errors()`).

    A field is named by its dotted path (`policy.timeout_sec`, `tasks.0.prompt`); problems of the whole body go to
    `formErrors`. At most 100 are told.
    """
    form: list[str] = []
    fields: dict[str, list[str]] = {}
    for number, problem in enumerate(problems):
        if number == _MOST_ERRORS:
            break
        field, message = _field(problem["loc"]), _message(problem)
        told = fields.setdefault(field, []) if field else form
        if message not in told:
            told.append(message)
    return {"formErrors": form, "fieldErrors": fields}
