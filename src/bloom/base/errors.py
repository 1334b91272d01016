"""One tree of errors with stable codes; only `bloom.web` knows which HTTP status belongs to which.

A message is written for the person who reads it and never holds a secret, a path, SQL, a prompt or an output.
"""

from collections.abc import Mapping
from typing import Any


class BloomError(Exception):
    """Something a caller can understand and act on. `code` is stable; `message` may be reworded."""

    code: str = "error"

    def __init__(self, message: str, *, code: str | None = None, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.detail: Mapping[str, Any] = detail


class InvalidInput(BloomError):
    """The request is not of the required form. `fields` names each bad field and what would be right."""

    code = "invalid"

    def __init__(self, message: str, *, fields: Mapping[str, list[str]] | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.fields: Mapping[str, list[str]] = fields or {}


class Unauthorized(BloomError):
    """No key, or a wrong one."""

    code = "unauthorized"


class Forbidden(BloomError):
    """The caller is known but may not do this."""

    code = "forbidden"


class NotFound(BloomError):
    """There is nothing under this id."""

    code = "not_found"


class Conflict(BloomError):
    """The state of the thing does not allow this now; nothing was changed."""

    code = "conflict"


class TooLarge(BloomError):
    """The body is over the limit."""

    code = "too_large"


class Unavailable(BloomError):
    """Not now: no free worker, the queue is full, or the database does not answer. Trying again later is right."""

    code = "unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after_sec: int | None = None, **d: Any) -> None:
        super().__init__(message, code=code, **d)
        self.retry_after_sec = retry_after_sec


class Throttled(BloomError):
    """Too often: trying again after `retry_after_sec` is right."""

    code = "rate_limited"

    def __init__(self, message: str, *, code: str | None = None, retry_after_sec: int) -> None:
        super().__init__(message, code=code)
        self.retry_after_sec = retry_after_sec


class Upstream(BloomError):
    """A service behind this one (object store, Membridge) failed."""

    code = "upstream"


class ConfigurationError(BloomError):
    """A setting is missing or wrong; the message names it and says what would be right."""

    code = "configuration"
