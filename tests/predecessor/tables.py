"""The predecessor's tables, as its own migrations made them: text ids, milliseconds, snake_case names."""

import itertools
import json
from typing import Any

from psycopg.sql import SQL, Identifier, Placeholder
from tests.real_postgres import FreshDatabase

SCHEMA = """
create table public.llm_tasks (
    id text primary key, context_id text not null, agent_slug text not null, prompt text not null,
    context_hints JSON_TYPE, policy JSON_TYPE, desired_format text default 'text', status text not null default 'queued',
    created_at bigint not null, updated_at bigint not null, lease_id text, worker_id text,
    attempts integer not null default 0, max_attempts integer not null default 3);
create table public.leases (
    id text primary key, task_id text not null, worker_id text not null, started_at bigint not null,
    expires_at bigint not null, ttl_seconds integer not null, status text not null, last_heartbeat bigint,
    context_id text);
create table public.workers (
    id text primary key, node_id text, url text, status text, capabilities JSON_TYPE, last_heartbeat bigint,
    ip_addrs JSON_TYPE, obs_count integer, db_sha text, registered_at bigint, active_leases integer, agent_version text,
    os_info text, install_method text);
create table public.runtime_artifacts (
    id text primary key, task_id text not null, job_id text, type text, created_at bigint not null, finalized boolean,
    url text, entity_refs JSON_TYPE, tags JSON_TYPE, content text);
create table public.llm_results (
    id text primary key, task_id text not null, worker_id text, artifact_id text, status text not null, output text,
    error_message text, metrics JSON_TYPE, completed_at bigint not null);
create table public.audit_logs (
    id text primary key, "timestamp" bigint not null, action text not null, entity_type text not null,
    entity_id text not null, actor text not null, detail JSON_TYPE);
create table public.runtime_settings (key text primary key, value text not null, updated_at bigint);
"""
START_MS = 1_790_000_000_000


class Predecessor:
    """Its tables in a database; `json_type` is that of its structures."""

    def __init__(self, database: FreshDatabase, json_type: str = "jsonb") -> None:
        self._database = database
        self._clock = itertools.count(START_MS, 1000)
        with database.connect() as connection:
            connection.execute(SCHEMA.replace("JSON_TYPE", json_type).encode())

    def insert(self, table: str, **fields: Any) -> None:
        """One row."""
        values = {
            name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in fields.items()
        }
        names = SQL(", ").join(map(Identifier, values))
        query = SQL("insert into public.{} ({}) values ({})").format(
            Identifier(table), names, SQL(", ").join(map(Placeholder, values))
        )
        with self._database.connect() as connection:
            connection.execute(query, values)

    def worker(self, worker_id: str, **fields: Any) -> None:
        """A worker that was online."""
        told = {"status": "online", "registered_at": next(self._clock), "last_heartbeat": next(self._clock)}
        can = {"claude_cli": True, "max_concurrency": 2, "labels": ["gpu"]}
        self.insert(
            "workers", id=worker_id, node_id=worker_id, **{**told, "capabilities": can, "ip_addrs": [], **fields}
        )

    def task(self, task_id: str, status: str = "queued", **fields: Any) -> str:
        """A task."""
        now = next(self._clock)
        told = {"context_id": "garden", "agent_slug": "writer", "prompt": f"Do {task_id}.", "context_hints": ["a"]}
        told |= {"policy": {"timeout_sec": 60, "budget": 1.5}, "created_at": now, "updated_at": now, "max_attempts": 3}
        self.insert("llm_tasks", id=task_id, status=status, **{**told, **fields})
        return task_id

    def lease(self, task_id: str, status: str = "released", worker_id: str = "vps", lease_id: str | None = None) -> str:
        """A lease."""
        now = next(self._clock)
        lease_id = lease_id or f"lease-{now}"
        self.insert("leases", id=lease_id, task_id=task_id, worker_id=worker_id, started_at=now, expires_at=now + 300_000,
                    ttl_seconds=300, status=status, last_heartbeat=None, context_id="garden")  # fmt: skip
        return lease_id

    def artifact(self, task_id: str, artifact_id: str | None = None, **fields: Any) -> str:
        """An artifact with a content."""
        artifact_id = artifact_id or f"artifact-{task_id}"
        told = {"job_id": task_id, "type": "LLM_RESULT", "finalized": True, "entity_refs": [], "tags": ["t"]}
        told |= {"content": f"Done {task_id}.", "created_at": next(self._clock)}
        self.insert("runtime_artifacts", id=artifact_id, task_id=task_id, **{**told, **fields})
        return artifact_id

    def result(self, task_id: str, artifact_id: str | None = None, *, worker_id: str = "vps", **fields: Any) -> str:
        """A result: a success where there is an artifact."""
        now = next(self._clock)
        told: dict[str, Any] = {"status": "success" if artifact_id else "error", "metrics": {"duration_ms": 7}}
        told |= {"output": f"Done {task_id}." if artifact_id else None, "error_message": None if artifact_id else "no"}
        self.insert("llm_results", id=f"result-{now}", task_id=task_id, worker_id=worker_id, artifact_id=artifact_id,
                    completed_at=now, **{**told, **fields})  # fmt: skip
        return f"result-{now}"

    def done(self, task_id: str, **artifact: Any) -> str:
        """A completed task, with all that belongs to it."""
        lease = self.lease(task_id)
        self.result(task_id, self.artifact(task_id, **artifact))
        return self.task(task_id, "completed", attempts=1, lease_id=lease, worker_id="vps")

    def dump(self) -> dict[str, list[str]]:
        """All its rows."""
        tables = (
            "llm_tasks",
            "leases",
            "workers",
            "runtime_artifacts",
            "llm_results",
            "audit_logs",
            "runtime_settings",
        )
        with self._database.connect() as connection:
            return {
                table: [
                    json.dumps(row, default=str)
                    for row in connection.execute(SQL("select * from public.{} order by 1").format(Identifier(table)))
                ]
                for table in tables
            }
