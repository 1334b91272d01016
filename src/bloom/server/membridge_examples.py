"""What the OpenAPI document of Membridge shows as examples: by the names of schemas, and of parameters."""

from collections.abc import Mapping
from typing import Any

from bloom.membridge.model import canonical_id_of, version_key
from bloom.web.openapi import Responses, answered

_CID = canonical_id_of("garden")
_SHA256 = "2d8bd7d9bb5f85ba643f0110d50cb506a1fe439e769a22503193ea6046bb87f7"
_KEY = version_key(_CID, 3, _SHA256)
_AT = 1_764_288_000_000
_AT_SEC = _AT // 1000
_JOB_ID = "job_0197a1f2c4"

_NODE: dict[str, Any] = {
    "node_id": "pi4",
    "canonical_id": _CID,
    "role": "primary",
    "obs_count": 120,
    "db_sha": _SHA256,
    "last_seen": _AT,
    "ip_addrs": ["192.0.2.7"],
    "registered_at": _AT,
    "project_id": "garden",
    "agent_version": "0.1.0",
    "online": True,
}
_COMMAND: dict[str, Any] = {
    "id": _JOB_ID,
    "action": "push",
    "project": "garden",
    "canonical_id": _CID,
    "dryrun": False,
    "deadline_ms": _AT + 600_000,
}

EXAMPLES: Mapping[str, Any] = {
    "NodeHeartbeat": {"node_id": "pi4", "canonical_id": _CID, "project_id": "garden", "obs_count": 120},
    "HeartbeatAnswer": {"ok": True, "role": "primary", "canonical_id": _CID, "epoch": 3},
    "NodeFields": _NODE,
    "LeadershipFields": {
        "canonical_id": _CID,
        "preferred_primary": "pi4",
        "node_count": 1,
        "nodes": [_NODE],
        "lease": {
            "canonical_id": _CID,
            "primary_node_id": "pi4",
            "issued_at": _AT_SEC,
            "expires_at": _AT_SEC + 3600,
            "lease_seconds": 3600,
            "epoch": 3,
            "policy": "primary_authoritative",
            "issued_by": "membridge",
        },
    },
    "SelectPrimary": {"primary_node_id": "pi4", "lease_seconds": 3600},
    "SelectAnswer": {
        "ok": True,
        "canonical_id": _CID,
        "primary_node_id": "pi4",
        "lease_seconds": 3600,
        "detail": "pi4 leads this project from now on, in epoch 3",
        "epoch": 3,
    },
    "NewVersion": {"node_id": "pi4", "epoch": 3, "sha256": _SHA256, "key": _KEY, "db_size": 4096},
    "VersionFields": {
        "sha256": _SHA256,
        "epoch": 3,
        "key": _KEY,
        "db_size": 4096,
        "counts": {"observations": 120},
        "node_id": "pi4",
        "based_on": None,
        "created_at_ms": _AT,
        "current": True,
    },
    "RestoreVersion": {"node_id": "pi4", "epoch": 3},
    "NewProject": {"name": "garden"},
    "ProjectFields": {
        "name": "garden",
        "canonical_id": _CID,
        "created_at": _AT_SEC,
        "last_seen": None,
        "nodes_count": 1,
        "source": "manual",
    },
    "RegisterAgent": {"name": "pi4", "url": "http://pi4.example:8001"},
    "AgentFields": {
        "name": "pi4",
        "url": "http://pi4.example:8001",
        "status": "online",
        "capabilities": {"claude_cli": True, "max_concurrency": 1, "labels": []},
        "registered_at": _AT_SEC,
        "last_seen": _AT_SEC,
    },
    "AwaitCommands": {"wait_sec": 30},
    "Commands": {"jobs": [_COMMAND]},
    "ReportJob": {"status": "done", "returncode": 0, "stdout": "pushed"},
    "JobFields": {
        **_COMMAND,
        "agent": "pi4",
        "status": "done",
        "detail": None,
        "stdout": "pushed",
        "stderr": "",
        "returncode": 0,
        "created_at": _AT,
        "finished_at": _AT + 900,
        "request_id": None,
        "progress": None,
    },
    "SyncRequest": {"project": "garden", "agent": "pi4"},
    "SyncAnswer": {
        "ok": True,
        "project": "garden",
        "agent": "pi4",
        "canonical_id": _CID,
        "detail": "Queued for the agent",
        "job_id": _JOB_ID,
    },
    "MembridgeAuditFields": {
        "id": "7",
        "timestamp": _AT,
        "action": "project_created",
        "entity_type": "project",
        "entity_id": _CID,
        "actor": "admin",
        "detail": {},
    },
}

PARAMETERS: Mapping[str, Any] = {
    "cid": _CID,
    "sha256": _SHA256,
    "name": "garden",
    "job_id": _JOB_ID,
    "limit": 50,
    "project": "garden",
    "entity_id": _CID,
    "cursor": "Wzdd",
}

HEALTH: Responses = {
    **answered({"status": "ok", "service": "membridge-control-plane", "projects": 1, "agents": 1}),
    503: {
        "description": "The database does not answer",
        "content": {"application/json": {"example": {"status": "degraded", "projects": None, "agents": None}}},
    },
}
