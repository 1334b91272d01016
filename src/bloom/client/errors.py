"""What can go wrong between a client and the runtime."""

from collections.abc import Mapping

from bloom.base.errors import BloomError


class RuntimeUnreachable(BloomError):
    """No runtime answered: nothing listens, the connection broke, or something else than a runtime is there.

    Trying again later is right. Codes: `unreachable`, `not_a_runtime` (another server answered), `redirected`.
    `maybe_received` says whether the request may have arrived, so it is repeated only under an idempotency key.
    The message names the URL, never the key, and says what to check.
    """

    code = "unreachable"

    def __init__(self, message: str, *, code: str | None = None, maybe_received: bool = False) -> None:
        super().__init__(message, code=code)
        self.maybe_received = maybe_received


class RuntimeRefused(BloomError):
    """The runtime, or a proxy in front of it, answered with an error.

    `status` is the HTTP status, `code` the stable code of the contract (`proxy` for a gateway's own 502, 503 or 504).
    `retry_after_sec` is what the answer asks for, if it does. `fields` names each bad field of an `invalid` request;
    `detail` holds the other fields of the answer.
    """

    code = "refused"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        retry_after_sec: float | None = None,
        fields: Mapping[str, list[str]] | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.status = status
        self.retry_after_sec = retry_after_sec
        self.fields: Mapping[str, list[str]] = fields or {}
