"""Exit codes that mean something, and errors as one line on stderr."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum

import typer

from bloom.base.errors import BloomError, ConfigurationError, Conflict, InvalidInput, NotFound
from bloom.cli.terminal import clean_line


class ExitCode(IntEnum):
    """What the exit code of `bloom` says; docs/cli.md has the same table."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3
    UNREACHABLE = 4
    KEY_REFUSED = 5
    NOT_FOUND = 6
    CONFLICT = 7
    INTERRUPTED = 130


EPILOG = (
    "Exit codes: 0 done; 1 the task failed or is dead, or another error; 2 wrong usage or setting; "
    "3 the task was cancelled; 4 the runtime cannot be reached or cannot answer now; 5 the key was refused; "
    "6 no such thing; 7 conflict, its state does not allow it; 130 interrupted. "
    "The key is read from BLOOM_API_KEY or RUNTIME_API_KEY."
)

_BY_STATUS = {
    400: ExitCode.USAGE,
    401: ExitCode.KEY_REFUSED,
    403: ExitCode.KEY_REFUSED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    413: ExitCode.USAGE,
    429: ExitCode.UNREACHABLE,
    502: ExitCode.UNREACHABLE,
    503: ExitCode.UNREACHABLE,
    504: ExitCode.UNREACHABLE,
}
_BY_CODE = {
    "not_found": ExitCode.NOT_FOUND,
    "unreachable": ExitCode.UNREACHABLE,
    "not_a_runtime": ExitCode.UNREACHABLE,
    "redirected": ExitCode.UNREACHABLE,
    "unavailable": ExitCode.UNREACHABLE,
    "database_unavailable": ExitCode.UNREACHABLE,
}
_HINTS = {
    ExitCode.KEY_REFUSED: "set BLOOM_API_KEY to a key of that runtime",
    ExitCode.NOT_FOUND: "ids and names are taken whole, as the lists show them",
}


def exit_code_of(error: BloomError) -> ExitCode:
    """The exit code that tells a script what kind of error this was."""
    if isinstance(error, ConfigurationError | InvalidInput):
        return ExitCode.USAGE
    if isinstance(error, Conflict | NotFound):
        return ExitCode.CONFLICT if isinstance(error, Conflict) else ExitCode.NOT_FOUND
    status = getattr(error, "status", None)  # of RuntimeRefused, which is not imported here: it costs a start of httpx
    if isinstance(status, int):
        return _BY_STATUS.get(status, ExitCode.FAILED)
    return _BY_CODE.get(error.code, ExitCode.FAILED)


def report(error: BloomError, *, as_json: bool) -> ExitCode:
    """Write `error` to stderr, as one line for people or as one JSON object, and return its exit code."""
    code = exit_code_of(error)
    if as_json:
        print(json.dumps({"error": error.message, "code": error.code}), file=sys.stderr)
        return code
    line = clean_line(error.message)
    # A role that does not suffice, or a token that is used up, says by itself what is wrong.
    is_plain = code is not ExitCode.KEY_REFUSED or error.code == "unauthorized"
    if is_plain and (hint := _HINTS.get(code)) is not None:
        line = f"{line.rstrip('.')}; {hint}"
    print(f"bloom: {line}", file=sys.stderr)
    return code


@contextmanager
def errors_as_exits(*, as_json: bool = False) -> Generator[None]:
    """Within it a BloomError becomes a line on stderr and an exit code, never a traceback."""
    try:
        yield
    except BloomError as error:
        raise typer.Exit(report(error, as_json=as_json)) from None
