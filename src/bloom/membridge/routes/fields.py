"""Membridge's things as the fields of their wire models."""

from datetime import datetime
from typing import Any

from bloom.base.clock import to_ms, to_ms_or_none
from bloom.membridge.lease_file import lease_fields
from bloom.membridge.model import Agent, Job, MembridgeAuditEntry, Node, Project, Version
from bloom.membridge.service.leadership import Leadership, Standing


def _to_sec(moment: datetime) -> int:
    return int(moment.timestamp())


def project_fields(project: Project) -> dict[str, Any]:
    """`project` as the fields of ProjectFields; times in seconds."""
    return {
        "name": project.name,
        "canonical_id": project.canonical_id,
        "created_at": _to_sec(project.created_at),
        "last_seen": None if project.last_seen is None else _to_sec(project.last_seen),
        "nodes_count": project.nodes_count,
        "source": project.source,
    }


def agent_fields(agent: Agent) -> dict[str, Any]:
    """`agent` as the fields of AgentFields; times in seconds."""
    return {
        "name": agent.name,
        "url": agent.url,
        "status": agent.status if agent.online else "offline",
        "capabilities": {
            "claude_cli": agent.claude_cli,
            "max_concurrency": agent.max_concurrency,
            "labels": list(agent.labels),
        },
        "registered_at": _to_sec(agent.registered_at),
        "last_seen": _to_sec(agent.last_seen),
    }


def standing_fields(standing: Standing) -> dict[str, Any]:
    """`standing` as the fields of a HeartbeatAnswer."""
    fields: dict[str, Any] = {"ok": True, "role": standing.role, "canonical_id": standing.project.canonical_id}
    if (lease := standing.project.lease) is not None:
        left_ms = int((lease.expires_at - standing.now).total_seconds() * 1000)
        fields |= {
            "epoch": lease.epoch,
            "lease_expires_at": to_ms(lease.expires_at),
            "lease_remaining_ms": max(left_ms, 0),
            "primary_node_id": lease.node_id,
        }
    return fields


def node_fields(node: Node, project: Project, now: datetime) -> dict[str, Any]:
    """`node` as the fields of NodeFields."""
    return {
        "node_id": node.node_id,
        "canonical_id": node.canonical_id,
        "role": project.role_of(node.node_id, now),
        "obs_count": node.obs_count,
        "db_sha": node.db_sha,
        "last_seen": to_ms(node.last_seen),
        "ip_addrs": list(node.ip_addrs),
        "registered_at": to_ms(node.registered_at),
        "project_id": node.project_id,
        "agent_version": node.agent_version,
        "online": node.is_online(now),
    }


def leadership_fields(seen: Leadership) -> dict[str, Any]:
    """`seen` as the fields of LeadershipFields."""
    project = seen.project
    return {
        "canonical_id": project.canonical_id,
        "preferred_primary": project.preferred_primary,
        "node_count": len(seen.nodes),
        "nodes": [node_fields(node, project, seen.now) for node in seen.nodes],
        "lease": None if project.lease is None else lease_fields(project.canonical_id, project.lease),
    }


def version_fields(version: Version) -> dict[str, Any]:
    """`version` as the fields of VersionFields."""
    return {
        "sha256": version.sha256,
        "epoch": version.epoch,
        "key": version.key,
        "db_size": version.db_size,
        "counts": dict(version.counts),
        "node_id": version.node_id,
        "based_on": version.based_on,
        "created_at_ms": to_ms(version.created_at),
        "current": version.current,
    }


def job_fields(job: Job) -> dict[str, Any]:
    """`job` as the fields of JobFields."""
    return {
        "id": job.id,
        "action": job.action,
        "project": job.project,
        "agent": job.agent,
        "canonical_id": job.canonical_id,
        "status": job.status,
        "detail": job.detail,
        "stdout": job.stdout,
        "stderr": job.stderr,
        "returncode": job.returncode,
        "dryrun": job.dryrun,
        "created_at": to_ms(job.created_at),
        "finished_at": to_ms_or_none(job.finished_at),
        "request_id": job.request_id,
        "progress": job.progress,
        "deadline_ms": to_ms(job.deadline),
    }


def command_fields(job: Job) -> dict[str, Any]:
    """`job` as the fields of a Command."""
    return {
        "id": job.id,
        "action": job.action,
        "project": job.project,
        "canonical_id": job.canonical_id,
        "dryrun": job.dryrun,
        "deadline_ms": to_ms(job.deadline),
    }


def audit_fields(entry: MembridgeAuditEntry) -> dict[str, Any]:
    """`entry` as the fields of MembridgeAuditFields."""
    return {
        "id": str(entry.id),
        "timestamp": to_ms(entry.at),
        "action": entry.action,
        "entity_type": entry.entity_type,
        "entity_id": entry.entity_id,
        "actor": entry.actor,
        "detail": entry.detail,
    }
