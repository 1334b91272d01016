"""One run of a command with a client: settings, event loop, errors. Imported only by what needs the network."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import typer
from pydantic import BaseModel, ValidationError

from bloom.base.errors import BloomError
from bloom.base.settings import ClientSettings, load
from bloom.cli.exits import ExitCode, errors_as_exits
from bloom.client import RuntimeClient, RuntimeUnreachable, find_runtime

M = TypeVar("M", bound=BaseModel)


def run_command(
    runtime: str | None,
    command: Callable[[RuntimeClient], Awaitable[ExitCode]],
    *,
    as_json: bool,
    interrupted: Callable[[], None] | None = None,
) -> None:
    """Run `command` with a client of the runtime and end with its exit code.

    An error is reported and becomes its exit code. On Ctrl-C `interrupted` may say how to go on; the exit code is 130.
    """

    async def with_client() -> ExitCode:
        settings = load(ClientSettings)
        address = find_runtime(settings, runtime)
        key = None if settings.api_key is None else settings.api_key.get_secret_value()
        async with RuntimeClient(address.url, key) as client:
            try:
                return await command(client)
            except RuntimeUnreachable as error:
                if address.source != "--runtime":
                    error.message += f" (address from {address.source}; --runtime or BLOOM_URL names another)"
                raise

    with errors_as_exits(as_json=as_json):
        try:
            code = asyncio.run(with_client())
        except KeyboardInterrupt:
            if interrupted is not None:
                interrupted()
            code = ExitCode.INTERRUPTED
        if code != ExitCode.DONE:
            raise typer.Exit(code)


def parse(model: type[M], answer: Any) -> M:
    """`answer` as `model`. Raises BloomError (`bad_answer`) when it is of another form."""
    try:
        return model.model_validate(answer)
    except ValidationError:
        raise _not_understood() from None


def parse_list(model: type[M], answer: Any) -> list[M]:
    """`answer` as a list of `model`. Raises BloomError (`bad_answer`) when it is of another form."""
    if not isinstance(answer, list):
        raise _not_understood()
    return [parse(model, item) for item in cast("list[Any]", answer)]


def _not_understood() -> BloomError:
    return BloomError(
        "the runtime's answer is not understood; install the release of bloom-runtime that the runtime has",
        code="bad_answer",
    )
