"""No prompt, no output and no key reaches a log, whatever goes wrong."""

from pathlib import Path

from tests.real_postgres import FreshDatabase, PostgresServer
from tests.real_runtime import StartServed, refused, told

KEY = "canary-key-4f1c"
PROMPT = "canary-prompt-9b2e"
OUTPUT = "canary-output-77aa"
JSON = {"Content-Type": "application/json"}


def test_no_prompt_no_output_and_no_key_is_logged(
    served: StartServed, database: FreshDatabase, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    runtime = served(RUNTIME_API_KEY=KEY, BLOOM_LOG_LEVEL="debug")
    runtime.register(slots=4)
    task, lease = runtime.leased(prompt=PROMPT, context_hints=[PROMPT], idempotency_key=f"{PROMPT} key")
    events = {"lease_id": lease["id"], "events": [{"seq": 1, "type": "text", "data": {"text": OUTPUT}}]}
    told(runtime.post(f"/llm-tasks/{task['id']}/events", events))
    told(runtime.complete(task["id"], lease["id"], output=OUTPUT * 100_000))

    # What is refused is not told either.
    assert refused(runtime.complete(task["id"], lease["id"], output=OUTPUT), 409) == "already_completed"
    for bad in ({"prompt": [PROMPT]}, {"prompt": PROMPT + "\x00"}, {PROMPT: PROMPT}, {"context_id": {"x": PROMPT}}):
        assert refused(runtime.post("/llm-tasks", bad), 400) == "invalid"
    for raw in (b'{"prompt": "' + PROMPT.encode(), PROMPT.encode(), b'{"prompt": "%s \\ud800"}' % PROMPT.encode()):
        assert refused(runtime.http.post("/llm-tasks", content=raw, headers=JSON), 400) == "invalid_json"
    assert runtime.http.get("/stats", headers={"X-Runtime-API-Key": KEY + "x"}).status_code == 401
    assert refused(runtime.get("/llm-tasks", status=PROMPT, cursor=PROMPT), 400) == "invalid"

    # Nor is it when the database fails in the middle, whose errors quote rows.
    database.edit("alter table bloom.tasks add constraint broken check (agent_slug <> 'broken')")
    failed = runtime.post("/llm-tasks", {"context_id": "c", "agent_slug": "broken", "prompt": PROMPT})
    assert refused(failed, 500) == "internal" and PROMPT not in failed.text and "broken" not in failed.text
    told(runtime.post("/llm-tasks", {"context_id": "c", "agent_slug": "a", "prompt": PROMPT}), 201)
    database.rows("""select pg_terminate_backend(pid) from pg_stat_activity
                     where application_name like 'bloom%%' and datname = current_database()""")  # fmt: skip
    runtime.post("/llm-tasks", {"context_id": "c", "agent_slug": "a", "prompt": PROMPT})
    runtime.stop()

    logs = {"server": runtime.log.read_text()}
    if postgres_server.embedded is not None:
        logs["postgres"] = postgres_server.embedded.log.read_text()
    for name, log in logs.items():
        assert log, name
        for canary in (KEY, PROMPT, OUTPUT):
            assert canary not in log, (name, [line[:300] for line in log.splitlines() if canary in line][:3])
