"""The `bloom` command: its parts, its version, and the last line of defence against tracebacks.

Nothing here imports httpx, pydantic or rich: each command imports what it needs when it runs.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bloom import __version__
from bloom.cli import audit, backup, config, db, key, membridge, sync, task, worker
from bloom.cli.doctor import doctor
from bloom.cli.exits import EPILOG, ExitCode, errors_as_exits
from bloom.cli.options import JsonOption
from bloom.cli.serve import serve
from bloom.cli.terminal import make_output_robust, print_json
from bloom.cli.up import up

app = typer.Typer(
    name="bloom",
    help="Makes the machines that run your Claude CLI one machine.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: rich would take twice as long to import as all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"bloom {__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction]
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    env_file: Annotated[
        Path | None,
        typer.Option(
            "--env-file",
            metavar="FILE",
            help="Read variables that are not set from this file, such as /etc/bloom-runtime.env.",
            show_default=False,
        ),
    ] = None,
) -> None:
    if env_file is not None:
        from bloom.cli.env_file import use_env_file

        with errors_as_exits():
            use_env_file(env_file)


@app.command("version", help="Show the version.")
def show_version(as_json: JsonOption = False) -> None:
    """Print the version of this installation."""
    if as_json:
        print_json({"version": __version__})
    else:
        print(f"bloom {__version__}")


app.command("serve", epilog=EPILOG)(serve)
app.command("up", short_help="Run everything here: database, runtime, worker.", epilog=EPILOG)(up)
app.command("doctor", epilog=EPILOG)(doctor)
app.add_typer(task.app, name="task")
app.add_typer(worker.app, name="worker")
app.add_typer(key.app, name="key")
app.add_typer(membridge.app, name="membridge")
app.add_typer(sync.app, name="sync")
app.add_typer(audit.app, name="audit")
app.add_typer(db.app, name="db")
app.add_typer(config.app, name="config")
app.add_typer(backup.app, name="backup")


def main() -> None:
    """Run the command line of this process and exit with a code of `ExitCode`."""
    make_output_robust()
    try:
        app()
    except SystemExit as ended:
        _leave(ended.code)
        raise
    except Exception as error:
        if os.environ.get("BLOOM_DEBUG"):
            raise
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and missing.partition(".")[0] != "bloom":
            extra = f"pip install '.[server,embedded]' in the checkout ({missing} is missing)"
            print(f"bloom: this command needs more than a client has: {extra}", file=sys.stderr)
            sys.exit(ExitCode.USAGE)
        if isinstance(error, OSError) and error.strerror:  # a full disk, a closed terminal
            print(f"bloom: {error.strerror}", file=sys.stderr)
            sys.exit(ExitCode.FAILED)
        # Only the type: the text of an unforeseen error may hold a prompt, a path or a key.
        kind = type(error).__name__
        print(f"bloom: unexpected {kind}; this is a bug, BLOOM_DEBUG=1 shows where", file=sys.stderr)
        sys.exit(ExitCode.FAILED)


def _leave(code: object) -> None:
    """End this process at once where obstore was used: about one in ten short ones dies of SIGABRT otherwise.

    Its threads outlive the last call for a moment, and the interpreter they return to may be gone
    (github.com/PyO3/pyo3-async-runtimes, issue 40).
    """
    if "obstore" in sys.modules:
        number = code if isinstance(code, int) else int(code is not None)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                number = number or ExitCode.FAILED
        os._exit(number)
