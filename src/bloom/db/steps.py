"""What an upgrade or a downgrade of the schema would do, before it does it."""

import importlib
import io
import re
from dataclasses import dataclass
from typing import Any

from bloom.base.errors import Conflict
from bloom.db.migrate import alembic, check_schema, current_revision, known_revisions, rebuilding

_NEW = re.compile(r"create table (\S+)")
_INDEX = re.compile(r"create (?:unique )?index (?:\S+ )?on (\S+)")
_ALTER = re.compile(r"alter table (?:only )?(\S+) ([^;]*)")
_CHECKED = re.compile(r"\badd (?:constraint|check|foreign key|primary key|unique)|\bset not null\b|\btype\b")
_WRITTEN = re.compile(r"(?:^|;)\s*(?:update (\S+) |insert into (\S+) [^;]*?select|delete from (\S+))", re.MULTILINE)
_DROPPED = re.compile(r"drop (?:table|schema) (?:if exists )?([^;]+?)(?: cascade)?;")
_DROPPED_INDEX = re.compile(r"drop index (?:if exists )?([^;]+);")
_GONE = re.compile(r"\bdrop (?:table|schema|column|type)\b|\brename\b")
_STRICTER = re.compile(
    r"\bset not null\b|\btype\b|\badd (?:constraint|check|unique|foreign key)"
    r"|\badd column [^,]*\bnot null\b(?![^,]*\bdefault\b)"
)
_UNIQUE = re.compile(r"create unique index (?:\S+ )?on (\S+)")


@dataclass(frozen=True, slots=True)
class Step:
    """One revision. `oldest_program`: releases that know no revision from it on do not run on this schema any more; None where
    it only adds. `locks` tells who waits for what.
    """

    revision: str
    summary: str
    oldest_program: str | None
    locks: list[str]
    sql: str


def upgrade_plan(database_url: str) -> list[Step]:
    """The steps that `bloom db upgrade` would take, the first one first: none where a newer release has been, on whose schema
    this one runs. Raises UnknownSchema where it does not, Unavailable.
    """
    revision = current_revision(database_url)
    known = known_revisions()
    if revision is not None and revision not in known:
        check_schema(database_url)
        return []
    pending = reversed(known[: known.index(revision)] if revision else known)
    return [_step(each, "upgrade") for each in pending]


def downgrade_step(database_url: str) -> Step:
    """The last step of the schema, with the SQL that takes it back. Raises Conflict where there is none to take back: another
    release made it, or it is the first.
    """
    revision = current_revision(database_url)
    if revision is None or revision not in known_revisions():
        raise Conflict(
            f"The schema is at revision {revision or 'none'}, which this release did not make; that one takes it back.",
            code="unknown_schema",
        )
    if _script(revision).down_revision is None:
        raise Conflict("This is the first revision: before it there is nothing.", code="first_revision")
    return _step(revision, "downgrade")


def downgrade(database_url: str, step: Step) -> None:
    """Take the last step back. Raises Conflict while others work on the database, or when it is not the last one any more."""
    with rebuilding(database_url) as schema:
        if current_revision(database_url) != step.revision:
            raise Conflict("The schema has changed meanwhile; look again.")
        schema.downgrade(_script(step.revision).down_revision)


def locks_of(sql: str) -> list[str]:
    """Who waits for what while `sql` runs, table by table. Tables that it makes itself nobody waits for."""
    sql = re.sub(r"--[^\n]*", "", sql).lower()
    new = set(_NEW.findall(sql))
    found: dict[str, None] = {}

    def note(table: str, text: str) -> None:
        if table not in new and table != "bloom.alembic_version":
            found[f"{table}: {text}"] = None

    for table, change in _ALTER.findall(sql):
        if _CHECKED.search(change):
            note(table, "readers and writers wait while all rows are read")
        else:
            note(table, "readers and writers wait for a moment")
    for table in _INDEX.findall(sql):
        note(table, "writers wait while an index is built")
    for tables in _WRITTEN.findall(sql):
        note("".join(tables), "rows are written; who changes the same ones waits")
    for name in _DROPPED.findall(sql):
        note(name, "dropped; readers and writers are waited for")
    for name in _DROPPED_INDEX.findall(sql):
        note(name, "dropped; readers and writers of its table wait for a moment")
    return list(found)


def takes_away(sql: str) -> bool:
    """Whether a release that does not know `sql` could miss something after it: a table, a column, a name, a value that was
    allowed.
    """
    sql = re.sub(r"--[^\n]*", "", sql).lower()
    new = set(_NEW.findall(sql))
    changes = [change for table, change in _ALTER.findall(sql) if table not in new]
    unique = [table for table in _UNIQUE.findall(sql) if table not in new]
    return bool(_GONE.search(sql) or unique or any(_STRICTER.search(change) for change in changes))


def _step(revision: str, direction: str) -> Step:
    script = _script(revision)
    below = script.down_revision or "base"
    span = f"{below}:{revision}" if direction == "upgrade" else f"{revision}:{below}"
    config, _ = alembic()
    config.output_buffer = io.StringIO()
    getattr(importlib.import_module("alembic.command"), direction)(config, span, sql=True)
    sql = config.output_buffer.getvalue().strip()
    summary = script.doc.partition("\n")[0]
    return Step(revision, summary, getattr(script.module, "oldest_program", None), locks_of(sql), sql)


def _script(revision: str) -> Any:
    config, _ = alembic()
    return importlib.import_module("alembic.script").ScriptDirectory.from_config(config).get_revision(revision)
