"""Typed calls of the SQL of agents."""

from datetime import datetime

from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.membridge.model import Agent
from bloom.membridge.schemas import RegisterAgent

_SQL = load_queries("bloom.membridge.store", "agents.sql")


async def all_agents(connection: Connection, *, now: datetime | None) -> list[Agent]:
    """Every agent, by name."""
    return [Agent(**row) for row in await fetch_all(connection, _SQL["all"], {"now": now})]


async def by_name(connection: Connection, name: str, *, now: datetime | None) -> Agent | None:
    """One agent."""
    row = await fetch_one(connection, _SQL["by_name"], {"name": name, "now": now})
    return None if row is None else Agent(**row)


async def upsert(connection: Connection, request: RegisterAgent, *, now: datetime | None) -> tuple[Agent, bool]:
    """Insert or update the agent by name; fields that the request leaves out are kept. True when it is new."""
    capabilities = request.capabilities.model_dump(include=request.capabilities.model_fields_set)
    params = {
        "name": request.name,
        "url": request.url,
        "status": request.status if "status" in request.model_fields_set else None,
        "claude_cli": capabilities.get("claude_cli"),
        "max_concurrency": capabilities.get("max_concurrency"),
        "labels": capabilities.get("labels"),
        "now": now,
    }
    row = await fetch_one(connection, _SQL["upsert"], params)
    assert row is not None  # noqa: S101 (an upsert returns its row)
    inserted = row.pop("inserted")
    return Agent(**row), inserted


async def heard_from(connection: Connection, name: str, *, polls: bool, now: datetime | None) -> bool:
    """Note that the agent spoke, `polls` if it came for its jobs; False when it is not registered."""
    cursor = await connection.execute(_SQL["heard_from"], {"name": name, "polls": polls, "now": now})
    return cursor.rowcount > 0


async def delete(connection: Connection, name: str) -> bool:
    """Delete an agent; False when there is none."""
    return (await connection.execute(_SQL["delete"], {"name": name})).rowcount > 0
