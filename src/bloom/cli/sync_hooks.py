"""`bloom sync install-hooks`, and the hidden command that Claude Code then runs."""

from pathlib import Path
from typing import Annotated

import typer

from bloom.cli.exits import errors_as_exits
from bloom.cli.options import JsonOption


def install_hooks(
    uninstall: Annotated[bool, typer.Option("--uninstall", help="Take exactly these entries out again.")] = False,
    settings: Annotated[
        Path | None,
        typer.Option(
            "--settings",
            metavar="FILE",
            help="Claude Code's settings. Default: settings.json in CLAUDE_CONFIG_DIR, else in ~/.claude.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let Claude Code sync by itself: pull when a session begins, push when it stops. Sessions never wait for it."""
    with errors_as_exits(as_json=as_json):
        from bloom.cli.terminal import print_json
        from bloom.sync import hooks

        path = (settings or hooks.settings_path()).expanduser().absolute()
        try:
            change = hooks.uninstall_hooks(path) if uninstall else hooks.install_hooks(path)
        except OSError as error:
            from bloom.base.errors import BloomError

            raise BloomError(f"{path} cannot be changed ({error.strerror})") from None
    if as_json:
        print_json({"settings": str(change.path), "changed": change.changed, "hints": list(change.hints)})
        return
    done, already = ("removed from", "not in") if uninstall else ("installed in", "already in")
    print(f"hooks {done if change.changed else already} {change.path}")
    for hint in change.hints:
        print(f"note: {hint}")


def hook(
    event: Annotated[str, typer.Argument(help="session-start, stop or session-end.")],
    in_background: Annotated[bool, typer.Option("--in-background", help="Do it here, and wait for it.")] = False,
) -> None:
    """Run by Claude Code: start the sync that belongs to EVENT and return at once, always with exit code 0."""
    from bloom.sync import hooks_run

    (hooks_run.work if in_background else hooks_run.begin)(event)
