"""What a merge tells: for each table how many rows came from where, and what was changed on both sides."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_CONFLICTS_TOLD = 1000
_MAX_VALUE = 500


@dataclass
class TableCount:
    """The rows of one table. `rows` = `on_both_sides` + `only_local` + `only_remote`.

    `identified_by`: `key <columns>` or `content`, how a row was found again on the other side. `known`: it is one of
    claude-mem's tables that this version of BLOOM was written for. `changed`: rows on both sides that differed.
    """

    table: str
    known: bool
    identified_by: str
    local_rows: int = 0
    remote_rows: int = 0
    on_both_sides: int = 0
    only_local: int = 0
    only_remote: int = 0
    changed: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Conflict:
    """A value that both sides changed. The one that was not kept stands here, in the backup, or in the remote version."""

    table: str
    row: str
    column: str
    local: Any
    remote: Any
    kept: str


@dataclass
class MergeReport:
    """What came from where. `notes`: what else the owner should know, a sentence each."""

    tables: list[TableCount] = field(default_factory=list[TableCount])
    conflicts: list[Conflict] = field(default_factory=list[Conflict])
    conflicts_total: int = 0
    notes: list[str] = field(default_factory=list[str])

    @property
    def added_locally(self) -> int:
        """Rows that this node did not have before."""
        return sum(table.only_remote for table in self.tables)

    @property
    def unknown_to_remote(self) -> int:
        """Rows that the remote does not have until the next push."""
        return sum(table.only_local for table in self.tables)

    @property
    def differs_from_remote(self) -> bool:
        """Whether a push would carry something new."""
        return any(table.only_local or table.changed for table in self.tables)

    def add_conflict(self, conflict: Conflict) -> None:
        """Count it, and keep it among the first `MAX_CONFLICTS_TOLD`, long values cut."""
        self.conflicts_total += 1
        if len(self.conflicts) < MAX_CONFLICTS_TOLD:
            self.conflicts.append(conflict)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values; bytes as hexadecimal."""
        answer = asdict(self)
        for conflict in answer["conflicts"]:
            for side in ("local", "remote"):
                conflict[side] = shown(conflict[side])
        return answer | {"added_locally": self.added_locally, "unknown_to_remote": self.unknown_to_remote}

    def lines(self) -> Iterator[str]:
        """The report for people."""
        yield f"{'table':<24} {'both':>8} {'local':>8} {'remote':>8} {'changed':>8} {'rows':>8}"
        for table in self.tables:
            if table.rows:
                numbers = (table.on_both_sides, table.only_local, table.only_remote, table.changed, table.rows)
                yield f"{table.table:<24} " + " ".join(f"{number:>8}" for number in numbers)
        for table in self.tables:
            if not table.known and table.rows:
                yield f"{table.table} is a table that BLOOM does not know: rows were united by {table.identified_by}"
        for conflict in self.conflicts:
            local, remote = (str(shown(value)) for value in (conflict.local, conflict.remote))
            yield (
                f"both sides changed {conflict.table} {conflict.row}, {conflict.column}: "
                f"local {local!r}, remote {remote!r}; kept the {conflict.kept} one"
            )
        if self.conflicts_total > len(self.conflicts):
            yield f"and {self.conflicts_total - len(self.conflicts)} more values that both sides changed"
        yield from self.notes


def shown(value: Any) -> Any:
    """`value` as a report shows it: bytes as hexadecimal, long text cut."""
    if isinstance(value, bytes):
        value = value.hex()
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()  # what was no UTF-8 in the database
    if isinstance(value, str) and len(value) > _MAX_VALUE:
        return value[:_MAX_VALUE] + "…"
    return value
