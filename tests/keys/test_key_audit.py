"""Every entry of the audit log names the key that acted, and no key is ever told again."""

import base64
from typing import Any

from key_holders import ADMIN_KEY, OTHER, OWN, create_key, holder, routes_of_the_runtime, shown
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Api, Replica, StartServed, told

from bloom.base.roles import Role
from bloom.keys.model import key_digest


def entries(api: Api) -> list[dict[str, Any]]:
    """The audit log, oldest first."""
    return told(api.get("/audit", limit=1000))[::-1]


def named_keys(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(action, key) of each entry: its actor, or for what a worker did the key that its detail names."""
    found: list[tuple[str, str]] = []
    for entry in log:
        by_worker = entry["actor"].startswith("worker:")
        found.append((entry["action"], entry["detail"].get("key", "") if by_worker else entry["actor"]))
    return found


def work(submitter: Api, worker: Api) -> None:
    """A task from its creation to each of its possible ends, and a worker's coming and going."""
    worker.register(OWN, slots=4)
    done, cancelled, failed = (submitter.create() for _ in range(3))
    claimed = {item["task"]["id"]: item["lease"]["id"] for item in worker.claim(OWN, "a claim", slots=2)}
    told(submitter.post(f"/llm-tasks/{cancelled['id']}/cancel"))
    worker.complete(cancelled["id"], claimed[cancelled["id"]])
    item = {"task_id": done["id"], "lease_id": claimed[done["id"]], "status": "success", "metrics": {"duration_ms": 1}}
    told(worker.post(f"/workers/{OWN}/complete", {"completions": [item]}))
    told(worker.fail(failed["id"], worker.lease(failed["id"], OWN)["id"]))
    told(submitter.post(f"/llm-tasks/{failed['id']}/requeue"))


ACTIONS = [
    ("worker_registered", "worker"),
    *[("task_created", "submitter")] * 3,
    *[("task_leased", "worker")] * 2,
    ("task_cancel_requested", "submitter"),
    ("task_cancelled", "worker"),
    ("task_completed", "worker"),
    ("task_leased", "worker"),
    ("task_completed", "worker"),
    ("task_requeued", "submitter"),
]


def test_every_entry_names_the_named_key_that_acted(keyed: Replica) -> None:
    made = [create_key(keyed, Role.SUBMITTER, "sue"), create_key(keyed, Role.WORKER, "pi key")]
    with shown(keyed, made[0]["key"]) as submitter, shown(keyed, made[1]["key"]) as worker:
        work(submitter, worker)
    log = entries(keyed)
    assert named_keys(log[:2]) == [("key_created", "admin")] * 2
    keys = {"worker": "key:pi key", "submitter": "key:sue"}
    assert named_keys(log[2:]) == [(action, keys[who]) for action, who in ACTIONS]
    assert {entry["actor"] for entry in log} == {"admin", "key:sue", "key:pi key", f"worker:{OWN}"}


def test_a_report_in_a_workers_name_names_the_key_of_the_environment(keyed: Replica) -> None:
    work(keyed, keyed)
    assert named_keys(entries(keyed)) == [(action, "admin") for action, _ in ACTIONS]


def test_without_keys_every_entry_names_local(runtime: Replica) -> None:
    work(runtime, runtime)
    assert named_keys(entries(runtime)) == [(action, "local") for action, _ in ACTIONS]


def test_making_joining_and_revoking_are_told_by_name_and_never_by_the_key(keyed: Replica) -> None:
    token = create_key(keyed, Role.JOIN, "token", worker_name=OWN)
    made = told(keyed.post("/keys/join", {}, **{"X-Runtime-API-Key": token["key"]}), 201)
    told(keyed.delete(f"/keys/{made['id']}"))
    log = entries(keyed)
    assert [(entry["action"], entry["actor"], entry["entity_id"]) for entry in log] == [
        ("key_created", "admin", token["id"]),
        ("key_created", "key:token", made["id"]),
        ("key_revoked", "admin", made["id"]),
    ]
    assert abs(log[0]["detail"].pop("expires_at") - token["expires_at"]) <= 1
    worker = {"name": made["name"], "role": "worker", "worker_name": OWN}
    assert [entry["detail"] for entry in log] == [
        {"name": "token", "role": "join", "worker_name": OWN},
        {**worker, "join_token": token["id"]},
        worker,
    ]


def test_a_draining_worker_and_a_removed_one_are_told_with_the_admin_who_did_it(keyed: Replica) -> None:
    keyed.register(OTHER)
    with holder(keyed, Role.ADMIN, name="ann") as admin:
        told(admin.post(f"/workers/{OTHER}/drain"))
        told(admin.post(f"/workers/{OTHER}/resume"))
        told(admin.delete(f"/workers/{OTHER}"))
    assert named_keys(entries(keyed))[-3:] == [
        (action, "key:ann") for action in ("worker_drained", "worker_resumed", "worker_removed")
    ]


def traces_of(key: str) -> list[bytes]:
    """Whatever would betray `key`: itself, and its digest as it may be written."""
    digest = key_digest(key)
    return [key.encode(), key[-43:].encode(), digest.hex().encode(), base64.b64encode(digest)]


def test_no_answer_no_log_line_and_no_row_holds_a_key(served: StartServed, database: FreshDatabase) -> None:
    server = served(RUNTIME_API_KEY=ADMIN_KEY, BLOOM_LOG_LEVEL="debug")
    token = create_key(server, Role.JOIN, "token", worker_name=OWN)
    made = told(server.post("/keys/join", {}, **{"X-Runtime-API-Key": token["key"]}), 201)
    reader = create_key(server, Role.READER, "reader")
    secrets = [made["key"], reader["key"], token["key"]]
    said: list[bytes] = []
    for key in secrets:
        with shown(server, key) as api:
            if key == made["key"]:
                work(server, api)
            answers = [
                api.post("/keys", {"name": key, "role": key}),
                api.post("/keys/join", {"name": "\0"}),
                api.delete(f"/keys/{key}"),
                api.get("/audit", cursor=key),
                api.http.request("PATCH", "/nowhere"),
            ]
            said += [answer.content + str(answer.headers.multi_items()).encode() for answer in answers]
    for method, path in sorted(routes_of_the_runtime()):
        if method == "GET" and "{" not in path and not path.endswith("/stream") and not path.startswith("/live/"):
            said.append(server.http.get(server.url + path).content)
    for key in told(server.get("/keys")):
        said.append(server.delete(f"/keys/{key['id']}").content)
    server.stop()
    said.append(server.log.read_bytes())
    said.append("\n".join(row for rows in database.dump().values() for row in rows).encode())
    said.append(str(database.rows("select id, name, created_by, starts_with from bloom.keys")).encode())
    for key in secrets:
        for trace in traces_of(key):
            assert not [text for text in said if trace in text]
