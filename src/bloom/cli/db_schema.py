"""`bloom db upgrade` and `downgrade`: the schema, step by step."""

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from bloom.base.errors import ConfigurationError
from bloom.cli.exits import errors_as_exits
from bloom.cli.options import JsonOption
from bloom.cli.terminal import is_terminal, print_json


def upgrade(
    plan: Annotated[
        bool, typer.Option("--plan", help="Only tell what would be done, and who would wait for what.")
    ] = False,
    sql: Annotated[bool, typer.Option("--sql", help="With --plan: the SQL, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the schema of DATABASE_URL, else of the data directory's database, to this release. Safe to repeat, and while
    runtimes serve.
    """
    with errors_as_exits(as_json=as_json):
        from bloom.base.settings import ServerSettings, load
        from bloom.db.local import reachable_database
        from bloom.db.migrate import upgrade as apply
        from bloom.db.steps import upgrade_plan

        with reachable_database(load(ServerSettings)) as url:
            steps = upgrade_plan(url) if plan else []
            applied = [] if plan else apply(url)
        if plan:
            if as_json:
                print_json([asdict(step) for step in steps])
            else:
                print("\n\n".join(_told(step, sql=sql) for step in steps) or "the schema is up to date")
        elif as_json:
            print_json({"applied": applied})
        else:
            print(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


def downgrade(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, as_json: JsonOption = False
) -> None:
    """Take back the last step of the schema, of DATABASE_URL or of the data directory: what it added is lost with its content.

    The release before runs on the newer schema, so going back to it needs no downgrade. All runtimes have to be stopped;
    one of this release would upgrade again at its start. Make a backup first.
    """
    with errors_as_exits(as_json=as_json):
        from bloom.base.settings import ServerSettings, load
        from bloom.db.local import reachable_database
        from bloom.db.steps import downgrade as take_back
        from bloom.db.steps import downgrade_step

        with reachable_database(load(ServerSettings)) as url:
            step = downgrade_step(url)
            if not yes:
                if not is_terminal(sys.stdin):
                    raise ConfigurationError("A downgrade loses data: --yes says that it is meant")
                print(_told(step, sql=True), file=sys.stderr)
                typer.confirm(f"Take back revision {step.revision}, with what it holds?", abort=True, err=True)
            take_back(url, step)
        if as_json:
            print_json({"taken_back": step.revision})
        else:
            print(f"took back {step.revision}")


def _told(step: Any, *, sql: bool) -> str:
    lines = [f"{step.revision}  {step.summary}"]
    if step.oldest_program is None:
        lines.append("  only adds: releases before it run on")
    else:
        lines.append(f"  takes away: releases that do not know revision {step.oldest_program} do not run any more")
    lines += [f"  {lock}" for lock in step.locks]
    return "\n".join([*lines, *([step.sql] if sql else [])])
