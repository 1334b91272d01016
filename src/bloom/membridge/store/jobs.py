"""Typed calls of the SQL of jobs."""

from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from bloom.db.pool import Connection, fetch_all, fetch_one
from bloom.db.queries import load_queries
from bloom.membridge.model import Job, JobStatus
from bloom.membridge.schemas import OUTPUT_CHARS, ReportJob

_SQL = load_queries("bloom.membridge.store", "jobs.sql")


def _job(row: DictRow) -> Job:
    fields: dict[str, Any] = {**row, "status": JobStatus(row["status"])}
    del fields["seq"]
    return Job(**fields)


async def insert(
    connection: Connection,
    job_id: str,
    *,
    action: str,
    canonical_id: str,
    project: str,
    agent: str,
    dryrun: bool,
    status: JobStatus,
    request_id: str | None,
    timeout_sec: float,
    now: datetime | None,
) -> Job:
    """A new job that times out after `timeout_sec`."""
    row = await fetch_one(
        connection,
        _SQL["insert"],
        {
            "id": job_id,
            "action": action,
            "canonical_id": canonical_id,
            "project": project,
            "agent": agent,
            "dryrun": dryrun,
            "status": status,
            "request_id": request_id,
            "timeout_sec": timeout_sec,
            "now": now,
        },
    )
    assert row is not None  # noqa: S101 (an insert returns its row)
    return _job(row)


async def hand_out(connection: Connection, agent: str, *, now: datetime | None) -> list[Job]:
    """The queued jobs of the agent, running from now on, oldest first."""
    rows = await fetch_all(connection, _SQL["hand_out"], {"agent": agent, "now": now})
    return [_job(row) for row in sorted(rows, key=lambda row: row["seq"])]


async def report(
    connection: Connection, agent: str, job_id: str, said: ReportJob, *, timeout_sec: float, now: datetime | None
) -> Job | None:
    """Note what the agent says of a job that it runs; None when it runs no such job."""

    def cut(text: str | None) -> str | None:
        return None if text is None else text[-OUTPUT_CHARS:]

    params: dict[str, Any] = {
        "id": job_id,
        "agent": agent,
        "status": said.status,
        "detail": cut(said.detail),
        "stdout": cut(said.stdout),
        "stderr": cut(said.stderr),
        "returncode": said.returncode,
        "progress": said.progress,
        "timeout_sec": timeout_sec,
        "now": now,
    }
    row = await fetch_one(connection, _SQL["report"], params)
    return None if row is None else _job(row)


async def time_out(connection: Connection, *, now: datetime | None) -> int:
    """End the jobs whose deadline has passed; how many there were (500 at most)."""
    return len(await fetch_all(connection, _SQL["time_out"], {"now": now}))


async def fail_of_agent(connection: Connection, agent: str, *, now: datetime | None) -> None:
    """End the unfinished jobs of an agent that is deleted."""
    await connection.execute(_SQL["fail_of_agent"], {"agent": agent, "now": now})


async def by_id(connection: Connection, job_id: str) -> Job | None:
    """One job."""
    row = await fetch_one(connection, _SQL["by_id"], {"id": job_id})
    return None if row is None else _job(row)


async def page(connection: Connection, *, canonical_id: str | None, limit: int) -> list[Job]:
    """The newest `limit` jobs, of all projects or of one."""
    rows = await fetch_all(connection, _SQL["page"], {"canonical_id": canonical_id, "limit": limit})
    return [_job(row) for row in rows]
