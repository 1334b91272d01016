"""What the OpenAPI document of the runtime shows as examples: by the names of schemas, and of parameters."""

from collections.abc import Mapping
from typing import Any

from bloom.web.openapi import Responses, answered

_TASK_ID, _LEASE_ID, _RESULT_ID = "task_0197a1f2c4", "lease_0197a1f2d9", "result_0197a1f30b"
_ARTIFACT_ID, _KEY_ID = "artifact_0197a1f30c", "key_0197a1e0aa"
_AT = 1_764_288_000_000
_SHA256 = "2d8bd7d9bb5f85ba643f0110d50cb506a1fe439e769a22503193ea6046bb87f7"

_HELD: dict[str, Any] = {"claude_cli": True, "max_concurrency": 2, "labels": ["gpu"]}
_BOARD = {"free_memory_bytes": 536_870_912, "total_memory_bytes": 4_294_967_296, "load_1m": 0.75, "cores": 4}
_REPORT: dict[str, Any] = {
    "status": "success",
    "output": "Hello.",
    "metrics": {"duration_ms": 1200, "tokens_used": 42},
    "lease_id": _LEASE_ID,
}
_NEW_TASK: dict[str, Any] = {"context_id": "diary", "agent_slug": "default", "prompt": "Say hello."}
_TASK: dict[str, Any] = {
    **_NEW_TASK,
    "id": _TASK_ID,
    "context_hints": [],
    "policy": {"timeout_sec": 120, "budget": 0},
    "desired_format": "text",
    "status": "leased",
    "created_at": _AT,
    "updated_at": _AT,
    "lease_id": _LEASE_ID,
    "worker_id": "pi4",
    "attempts": 1,
    "max_attempts": 3,
    "priority": 0,
    "run_at": None,
    "labels": [],
    "concurrency_key": None,
    "retry": {"base_sec": 2, "max_sec": 300},
    "cancel_requested": False,
}
_LEASE: dict[str, Any] = {
    "id": _LEASE_ID,
    "task_id": _TASK_ID,
    "worker_id": "pi4",
    "started_at": _AT,
    "expires_at": _AT + 300_000,
    "ttl_seconds": 300,
    "status": "active",
    "last_heartbeat": None,
    "context_id": "diary",
}
_WORKER: dict[str, Any] = {
    "id": "pi4",
    "node_id": "pi4",
    "url": None,
    "status": "online",
    "capabilities": _HELD,
    "last_heartbeat": _AT,
    "ip_addrs": ["192.0.2.7"],
    "obs_count": None,
    "db_sha": None,
    "registered_at": _AT,
    "active_leases": 1,
    "agent_version": "0.1.0",
    "os_info": "Debian 12",
    "install_method": "pip",
    "draining": False,
}
_RESULT: dict[str, Any] = {
    "id": _RESULT_ID,
    "task_id": _TASK_ID,
    "worker_id": "pi4",
    "lease_id": _LEASE_ID,
    "artifact_id": _ARTIFACT_ID,
    "status": "success",
    "output": "Hello.",
    "error_message": None,
    "code": None,
    "metrics": {"duration_ms": 1200, "tokens_used": 42},
    "completed_at": _AT + 1200,
}
_ARTIFACT: dict[str, Any] = {
    "id": _ARTIFACT_ID,
    "task_id": _TASK_ID,
    "job_id": _TASK_ID,
    "type": "LLM_RESULT",
    "created_at": _AT + 1200,
    "finalized": True,
    "url": None,
    "entity_refs": [],
    "tags": [],
    "content": "Hello.",
    "content_type": "text/plain; charset=utf-8",
    "size_bytes": 6,
    "sha256": _SHA256,
}
_KEY: dict[str, Any] = {
    "id": _KEY_ID,
    "name": "laptop",
    "role": "submitter",
    "worker_name": None,
    "starts_with": "bloom_Ab3d",
    "state": "active",
    "created_at": _AT,
    "created_by": "admin",
    "expires_at": None,
    "last_used_at": None,
    "used_up_at": None,
    "revoked_at": None,
}

EXAMPLES: Mapping[str, Any] = {
    "TaskStatus": "queued",
    "LeaseStatus": "active",
    "CreateTask": _NEW_TASK,
    "CreateBatch": {"tasks": [_NEW_TASK]},
    "CreateBatchAnswer": {
        "results": [{"status": 201, "task": _TASK}, {"status": 400, "error": "…", "code": "invalid"}]
    },
    "LLMTask": _TASK,
    "LLMResult": _RESULT,
    "StatsOut": {
        "tasks": {"total": 3, "by_status": {"queued": 1, "completed": 2}},
        "leases": {"total": 2, "active": 0},
        "workers": {"total": 1, "online": 1},
    },
    "LeaseTask": {"worker_id": "pi4", "ttl_seconds": 300},
    "LeaseAnswer": {"lease": _LEASE, "worker": _WORKER},
    "LeaseOut": _LEASE,
    "Heartbeat": {"lease_id": _LEASE_ID},
    "HeartbeatAnswer": {"lease": _LEASE, "expires_at": _AT + 300_000},
    "CompleteTask": _REPORT,
    "CompletedAnswer": {"task": {**_TASK, "status": "completed"}, "artifact": _ARTIFACT, "result": _RESULT},
    "AppendEvents": {"lease_id": _LEASE_ID, "events": [{"seq": 1, "type": "text", "data": {"text": "Hello"}}]},
    "AppendAnswer": {"accepted": 1, "next_seq": 2, "cancel": False},
    "EventOut": {
        "id": 1,
        "task_id": _TASK_ID,
        "lease_id": _LEASE_ID,
        "seq": 1,
        "at": _AT,
        "type": "text",
        "data": {"text": "Hello"},
    },
    "UploadAnswer": {"output_ref": "upload_0197a1f30a", "received": 6, "cancel": False},
    "RegisterWorker": {"name": "pi4", "capabilities": _HELD},
    "WorkerNode": _WORKER,
    "WorkerWithLeases": {**_WORKER, "leases": [_LEASE]},
    "RemovedWorker": {"removed": True, "id": "pi4"},
    "Claim": {"request_id": "0197a1f2-1", "slots": 1, "wait_sec": 30, "board": _BOARD},
    "ClaimAnswer": {"leases": [{"lease": _LEASE, "task": _TASK}]},
    "Extend": {"leases": [{"lease_id": _LEASE_ID}]},
    "ExtendAnswer": {"leases": [{"lease_id": _LEASE_ID, "outcome": "held", "expires_at": _AT + 300_000}]},
    "CompleteBatch": {"completions": [{**_REPORT, "task_id": _TASK_ID}]},
    "CompleteBatchAnswer": {"completions": [{"task_id": _TASK_ID, "lease_id": _LEASE_ID, "outcome": "ok"}]},
    "RuntimeArtifact": _ARTIFACT,
    "ArtifactUrl": {"url": "https://s3.example.org/bloom/objects/…", "expires_at": _AT + 3_600_000},
    "AuditLogEntry": {
        "id": "41",
        "timestamp": _AT,
        "action": "task_created",
        "entity_type": "task",
        "entity_id": _TASK_ID,
        "actor": "admin",
        "detail": {},
    },
    "SaveConfig": {
        "membridge_server_url": "https://membridge.example.org",
        "admin_key": "the key of Membridge's admin",
    },
    "ConfigOut": {
        "membridge_server_url": "https://membridge.example.org",
        "admin_key_masked": "the ********dmin",
        "connected": True,
        "last_test": _AT,
        "key_source": "saved",
        "problem": None,
    },
    "ConnectionTest": {"connected": True, "health": {"status": "ok", "service": "membridge-control-plane"}},
    "SelectPrimary": {"primary_node_id": "pi4", "lease_seconds": 3600},
    "CreateKey": {"name": "laptop", "role": "submitter"},
    "RotateKey": {"overlap_sec": 86_400},
    "Join": {"hostname": "pi4"},
    "KeyOut": _KEY,
    "CreatedKey": {**_KEY, "key": "bloom_…", "asked_for": True},
}

PARAMETERS: Mapping[str, Any] = {
    "task_id": _TASK_ID,
    "result_id": _RESULT_ID,
    "worker_id": "pi4",
    "artifact_id": _ARTIFACT_ID,
    "key_id": _KEY_ID,
    "cid": "6c1d5b2f7a80e934",
    "lease_id": _LEASE_ID,
    "Idempotency-Key": "nightly-2026-11-28",
    "limit": 100,
    "cursor": "WzQxXQ",
    "after": 0,
    "offset": 0,
    "restart": False,
    "action": "task_created",
    "actor": "admin",
    "entity_type": "task",
    "entity_id": _TASK_ID,
    "since": _AT,
    "until": _AT + 86_400_000,
}

HEALTH: Responses = {
    **answered({"status": "ok", "service": "bloom-runtime", "uptime": 7, "storage": "postgresql", "membridge": {}}),
    503: {
        "description": "The database does not answer",
        "content": {"application/json": {"example": {"status": "degraded", "service": "bloom-runtime"}}},
    },
}
