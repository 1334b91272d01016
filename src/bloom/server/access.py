"""Who may use which route of the runtime. Each route has its line here; `bloom.web.roles` enforces them."""

from collections.abc import Mapping

from bloom.base.roles import Role
from bloom.web.roles import Reach, Rule

API = "/api/runtime"
MEMBRIDGE = "/api/membridge"

_READERS = frozenset({Role.ADMIN, Role.SUBMITTER, Role.READER})
_SUBMITTERS = frozenset({Role.ADMIN, Role.SUBMITTER})
_WORKERS = frozenset({Role.ADMIN, Role.WORKER})

EVERYBODY = Rule(frozenset(Role), strangers=True)
ADMINS = Rule(frozenset({Role.ADMIN}))
SUBMITTERS = Rule(_SUBMITTERS)
READERS = Rule(_READERS)
READERS_AND_ITS_WORKER = Rule(_READERS | {Role.WORKER}, Reach.OWN_NAME)
READERS_AND_ITS_HOLDER = Rule(_READERS | {Role.WORKER}, Reach.TASKS_IT_HELD)
ITS_WORKER = Rule(_WORKERS, Reach.OWN_NAME)
ITS_HOLDER = Rule(_WORKERS, Reach.FENCED)
JOINING = Rule(frozenset({Role.ADMIN, Role.JOIN}))

RULES: Mapping[tuple[str, str], Rule] = {
    # Pages
    ("GET", "/static/{name}"): EVERYBODY,
    ("GET", "/sign-in"): EVERYBODY,
    ("POST", "/sign-in"): EVERYBODY,
    ("POST", "/sign-out"): EVERYBODY,
    ("POST", "/language"): EVERYBODY,
    ("GET", "/"): READERS,
    ("GET", "/live/"): READERS,
    ("GET", "/workers"): READERS,
    ("GET", "/live/workers"): READERS,
    ("GET", "/workers/{worker_id}"): READERS,
    ("GET", "/live/workers/{worker_id}"): READERS,
    ("GET", "/add-worker"): ADMINS,
    ("POST", "/add-worker"): ADMINS,
    ("POST", "/workers/{worker_id}/drain"): ADMINS,
    ("POST", "/workers/{worker_id}/resume"): ADMINS,
    ("GET", "/workers/{worker_id}/remove"): ADMINS,
    ("POST", "/workers/{worker_id}/remove"): ADMINS,
    ("GET", "/artifacts"): READERS,
    ("GET", "/artifacts/{artifact_id}"): READERS,
    ("GET", "/artifacts/{artifact_id}/download"): READERS,
    ("GET", "/leases"): READERS,
    ("GET", "/live/leases"): READERS,
    ("GET", "/audit"): READERS,
    ("GET", "/live/audit"): READERS,
    ("GET", "/audit/download"): READERS,
    ("GET", "/membridge"): READERS,
    ("GET", "/live/membridge"): READERS,
    ("GET", "/membridge/{cid}"): READERS,
    ("GET", "/live/membridge/{cid}"): READERS,
    ("GET", "/membridge/{cid}/promote"): ADMINS,
    ("POST", "/membridge/{cid}/promote"): ADMINS,
    ("POST", "/membridge/{cid}/sync"): ADMINS,
    ("GET", "/settings"): ADMINS,
    ("POST", "/settings/membridge"): ADMINS,
    ("POST", "/settings/membridge/test"): ADMINS,
    ("POST", "/settings/keys"): ADMINS,
    ("GET", "/settings/keys/{key_id}/revoke"): ADMINS,
    ("POST", "/settings/keys/{key_id}/revoke"): ADMINS,
    ("GET", "/tasks"): READERS,
    ("GET", "/live/tasks"): READERS,
    ("POST", "/tasks/change"): SUBMITTERS,
    ("GET", "/tasks/new"): SUBMITTERS,
    ("POST", "/tasks/new"): SUBMITTERS,
    ("GET", "/tasks/{task_id}"): READERS,
    ("GET", "/live/tasks/{task_id}"): READERS,
    ("GET", "/tasks/{task_id}/run"): READERS,
    ("GET", "/tasks/{task_id}/prompt"): READERS,
    ("GET", "/tasks/{task_id}/results/{result_id}"): READERS,
    ("POST", "/tasks/{task_id}/cancel"): SUBMITTERS,
    ("POST", "/tasks/{task_id}/requeue"): SUBMITTERS,
    ("GET", f"{API}/health"): EVERYBODY,
    ("GET", "/metrics"): EVERYBODY,  # it has a key of its own, or answers to this machine alone
    ("GET", f"{API}/openapi.json"): READERS,
    ("HEAD", f"{API}/openapi.json"): READERS,
    # Tasks
    ("POST", f"{API}/llm-tasks"): SUBMITTERS,
    ("POST", f"{API}/llm-tasks/batch"): SUBMITTERS,
    ("POST", f"{API}/llm-tasks/{{task_id}}/cancel"): SUBMITTERS,
    ("POST", f"{API}/llm-tasks/{{task_id}}/requeue"): SUBMITTERS,
    ("GET", f"{API}/llm-tasks"): READERS,
    ("GET", f"{API}/llm-tasks/{{task_id}}"): READERS_AND_ITS_HOLDER,
    ("GET", f"{API}/llm-tasks/{{task_id}}/results"): READERS_AND_ITS_HOLDER,
    ("GET", f"{API}/llm-tasks/{{task_id}}/results/{{result_id}}"): READERS_AND_ITS_HOLDER,
    ("GET", f"{API}/llm-tasks/{{task_id}}/events"): READERS_AND_ITS_HOLDER,
    ("GET", f"{API}/llm-tasks/{{task_id}}/stream"): READERS,
    ("GET", f"{API}/runs"): READERS,
    ("GET", f"{API}/leases"): READERS,
    ("GET", f"{API}/stats"): READERS,
    # Working on tasks
    ("POST", f"{API}/llm-tasks/{{task_id}}/lease"): ITS_HOLDER,
    ("POST", f"{API}/llm-tasks/{{task_id}}/heartbeat"): ITS_HOLDER,
    ("POST", f"{API}/llm-tasks/{{task_id}}/events"): ITS_HOLDER,
    ("POST", f"{API}/llm-tasks/{{task_id}}/complete"): ITS_HOLDER,
    ("PUT", f"{API}/llm-tasks/{{task_id}}/output"): ITS_HOLDER,
    ("GET", f"{API}/llm-tasks/{{task_id}}/output"): READERS_AND_ITS_HOLDER,
    ("HEAD", f"{API}/llm-tasks/{{task_id}}/output"): READERS_AND_ITS_HOLDER,
    ("POST", f"{API}/workers/{{worker_id}}/claim"): ITS_WORKER,
    ("POST", f"{API}/workers/{{worker_id}}/extend"): ITS_WORKER,
    ("POST", f"{API}/workers/{{worker_id}}/complete"): ITS_WORKER,
    # Workers. The body of a registration names the worker; its route compares.
    ("POST", f"{API}/workers"): Rule(_WORKERS, Reach.FENCED),
    ("GET", f"{API}/workers"): READERS,
    ("GET", f"{API}/workers/{{worker_id}}"): READERS_AND_ITS_WORKER,
    ("POST", f"{API}/workers/{{worker_id}}/drain"): ADMINS,
    ("POST", f"{API}/workers/{{worker_id}}/resume"): ADMINS,
    ("DELETE", f"{API}/workers/{{worker_id}}"): ADMINS,
    # Artifacts and audit
    ("GET", f"{API}/artifacts"): READERS,
    ("GET", f"{API}/artifacts/{{artifact_id}}"): READERS,
    ("GET", f"{API}/artifacts/{{artifact_id}}/content"): READERS,
    ("GET", f"{API}/artifacts/{{artifact_id}}/url"): READERS,
    ("GET", f"{API}/audit"): READERS,
    ("GET", f"{API}/stream"): READERS,
    # The connection to Membridge, and what is passed on to it
    ("GET", f"{API}/config"): ADMINS,
    ("POST", f"{API}/config"): ADMINS,
    ("POST", f"{API}/test-connection"): EVERYBODY,
    ("GET", f"{MEMBRIDGE}/health"): READERS,
    ("GET", f"{MEMBRIDGE}/projects"): READERS,
    ("GET", f"{MEMBRIDGE}/projects/{{cid}}/leadership"): READERS,
    ("GET", f"{MEMBRIDGE}/projects/{{cid}}/nodes"): READERS,
    ("POST", f"{MEMBRIDGE}/projects/{{cid}}/leadership/select"): ADMINS,
    # Keys. Joining takes a join token as the key; without keys (development mode) everybody is an admin.
    ("POST", f"{API}/keys"): ADMINS,
    ("GET", f"{API}/keys"): ADMINS,
    ("DELETE", f"{API}/keys/{{key_id}}"): ADMINS,
    ("POST", f"{API}/keys/{{key_id}}/rotate"): ADMINS,
    ("POST", f"{API}/keys/join"): JOINING,
}
