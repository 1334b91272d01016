"""`bloom worker join`: the one command that a new machine needs."""

from typing import Annotated

import typer

from bloom.cli.exits import errors_as_exits


def join(
    url: Annotated[str, typer.Argument(metavar="URL", help="The runtime's address, as this machine reaches it.")],
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", help="A join token of `bloom key create --join`; - reads it from stdin.")
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="This worker's name, if the token leaves it open. Default: the host name."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, max=32, metavar="N", help="How many tasks it runs at once.")] = 1,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="USER", help="As root: whose worker this is; its service runs as this user.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Install the service without asking.")] = False,
    no_service: Annotated[bool, typer.Option("--no-service", help="Install no service, and do not ask.")] = False,
) -> None:
    """Make this machine a worker of a runtime: get a key of its own, write worker.toml, check the Claude CLI, offer a service.

    The token is used up; the key goes into the worker directory, for this user alone. Afterwards `bloom worker` needs no
    option. Nothing is started, and no sudo rule is touched.
    """
    if yes and no_service:
        raise typer.BadParameter("say either --yes or --no-service")
    with errors_as_exits():
        from bloom.cli.joining import Wish, join_runtime

        service = "yes" if yes else "no" if no_service else "ask"
        join_runtime(Wish(url=url, token=token, name=name, slots=slots, user=user, service=service))
