"""Typed calls of the SQL of projects and nodes."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.membridge.model import Lease, Node, Project, canonical_id_of
from bloom.membridge.schemas import NodeHeartbeat

_SQL = load_queries("bloom.membridge.store", "projects.sql")


def project_of(row: Mapping[str, Any]) -> Project:
    """The project of a row of `projects`."""
    lease = None
    if row["primary_node_id"] is not None:
        lease = Lease(
            row["epoch"],
            row["primary_node_id"],
            row["lease_seconds"],
            row["issued_at"],
            row["issued_by"],
            row["expires_at"],
        )
    return Project(
        canonical_id=row["canonical_id"],
        name=row["name"],
        source=row["source"],
        created_at=row["created_at"],
        last_seen=row["last_seen"],
        epoch=row["epoch"],
        preferred_primary=row["preferred_primary"],
        current_sha256=row["current_sha256"],
        lease=lease,
        nodes_count=row.get("nodes_count", 0),
    )


async def all_projects(connection: Connection) -> list[Project]:
    """Every project, by name."""
    return [project_of(row) for row in await fetch_all(connection, _SQL["all"], {})]


async def by_id(connection: Connection, canonical_id: str) -> Project | None:
    """One project."""
    row = await fetch_one(connection, _SQL["by_id"], {"canonical_id": canonical_id})
    return None if row is None else project_of(row)


async def lock(connection: Connection, canonical_id: str) -> Project | None:
    """One project, locked until the transaction ends."""
    row = await fetch_one(connection, _SQL["lock"], {"canonical_id": canonical_id})
    return None if row is None else project_of(row)


async def lock_named(connection: Connection, name: str) -> Project | None:
    """The project of this name, which is its id where no other is known, locked until the transaction ends."""
    return await lock(connection, canonical_id_of(name)) or await lock(connection, name)


async def insert(connection: Connection, canonical_id: str, name: str, *, now: datetime | None) -> Project | None:
    """Make a project by hand; None when there is one. One that is known by its id alone gets its name."""
    params: dict[str, Any] = {"canonical_id": canonical_id, "name": name, "source": "manual", "now": now}
    row = await fetch_one(connection, _SQL["insert"], params)
    if row is None:
        row = await fetch_one(connection, _SQL["give_name"], params)
    return None if row is None else project_of(row)


async def heard_of(
    connection: Connection, canonical_id: str, name: str | None, *, now: datetime | None
) -> tuple[Project, bool]:
    """The project of a heartbeat, locked, made if it is new; True when it is."""
    row = await fetch_one(connection, _SQL["heard_of"], {"canonical_id": canonical_id, "name": name, "now": now})
    assert row is not None  # noqa: S101 (an upsert returns its row)
    return project_of(row), row["inserted"]


async def delete(connection: Connection, canonical_id: str) -> dict[str, Any]:
    """Delete the project and all that is its own; how much of each that was."""
    contents = await fetch_one(connection, _SQL["contents"], {"canonical_id": canonical_id})
    await connection.execute(_SQL["delete"], {"canonical_id": canonical_id})
    return dict(contents or {})


async def counts(connection: Connection) -> dict[str, int]:
    """How many `projects` and `agents` there are."""
    return dict(await fetch_one(connection, _SQL["counts"], {}) or {})


async def clock(connection: Connection, now: datetime | None) -> datetime:
    """`now`, or the time by the database at this moment (not at the beginning of the transaction)."""
    row = await fetch_one(connection, _SQL["clock"], {"now": now})
    assert row is not None  # noqa: S101
    return row["now"]


async def upsert_node(connection: Connection, heartbeat: NodeHeartbeat, *, now: datetime) -> None:
    """Note a heartbeat; what it leaves out is kept."""
    params = heartbeat.model_dump(exclude={"last_seen"}) | {"now": now}
    if "ip_addrs" not in heartbeat.model_fields_set:
        params["ip_addrs"] = None
    await connection.execute(_SQL["upsert_node"], params)


async def nodes(connection: Connection, canonical_id: str) -> list[Node]:
    """The nodes of a project, by id."""
    return [Node(**row) for row in await fetch_all(connection, _SQL["nodes"], {"canonical_id": canonical_id})]


async def set_node_sha(connection: Connection, canonical_id: str, node_id: str, sha256: str) -> None:
    """Note what memory a node has, if the node is known."""
    params = {"canonical_id": canonical_id, "node_id": node_id, "sha256": sha256}
    await connection.execute(_SQL["set_node_sha"], params)
