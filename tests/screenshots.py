"""`make screenshots`: every page of a seeded demo, in light, in dark and narrow, into .build/screenshots.

With `--docs` the two that the README shows are made anew (docs/images).
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from tests.real_postgres import FreshDatabase, running_server
from tests.real_runtime import Replica, told
from tests.ui.browsers import ARGUMENTS, CHROMIUM

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".build/screenshots"
DOCS = ROOT / "docs/images"
LOOKS: Mapping[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 380, "height": 800}, "color_scheme": "light"},
    "ukrainian": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light", "locale": "uk"},
}
ANSWER = """## What changed in the release

The queue keeps its promises under load now:

- **Claims** are answered in one statement, about *17,000* a second on two cores.
- A worker that was silent for its whole lease is told `lease_lost`, and changes nothing.

| Measure | Before | Now |
|---|---|---|
| claim, p99 | 41 ms | 9 ms |
| lost tasks | 0 | 0 |

See the [notes](https://example.org/notes) for the rest.
"""
PROMPTS = (
    ("Write the release notes of this month from the changelog.", "writer", "release-notes"),
    ("Read the logs of last night and say what went wrong, if anything did.", "analyst", "night-watch"),
    ("Перекладіть сторінку про відновлення після збою українською.", "translator", "docs-uk"),
    ("Find the slowest test of the suite and propose how to make it fast.", "engineer", "test-speed"),
    ("Describe the pictures in the folder, one line for each.", "analyst", "pictures"),
    ("Compare the three offers for hosting and recommend one.", "analyst", "offers"),
)


def seed(runtime: Replica, database: FreshDatabase) -> dict[str, str]:
    """A fleet of three workers at work; the ids of a task in each state."""
    for name, slots, labels in (("atlas", 4, ["gpu", "big"]), ("pi-kitchen", 1, ["arm"]), ("laptop", 2, [])):
        board = {"free_memory_bytes": 6 * 2**30, "total_memory_bytes": 8 * 2**30, "load_1m": 0.7, "cores": 4}
        runtime.register(name, slots=slots, capabilities={"labels": labels})
        runtime.claim(name, f"first of {name}")
        told(runtime.post(f"/workers/{name}/extend", {"leases": [], "board": board}))
    ids: dict[str, str] = {}
    for n in range(24):
        prompt, agent, context = PROMPTS[n % len(PROMPTS)]
        task, lease = runtime.leased("atlas", prompt=prompt, agent_slug=agent, context_id=context)
        _tell(runtime, task["id"], lease["id"])
        metrics = {"duration_ms": 8400 + 613 * n, "tokens_used": 1900 + 77 * n, "cost_usd": 0.021 + n / 900}
        told(runtime.complete(task["id"], lease["id"], output=ANSWER, metrics={**metrics, "model": "claude"}))
        if prompt == PROMPTS[0][0]:
            ids["completed"] = task["id"]
    failed, lease = runtime.leased("laptop", prompt=PROMPTS[3][0], agent_slug="engineer", context_id="test-speed")
    message = "The command ended with exit status 1. It says: no test matched"
    told(runtime.fail(failed["id"], lease["id"], error_message=message, code="command_failed"))
    dead = runtime.create(prompt=PROMPTS[5][0], agent_slug="analyst", context_id="offers", max_attempts=1)
    lease = runtime.lease(dead["id"], "pi-kitchen")
    told(runtime.fail(dead["id"], lease["id"], error_message="The network was away.", code="network", retryable=True))
    running, lease = runtime.leased("laptop", prompt=PROMPTS[1][0], agent_slug="analyst", context_id="night-watch")
    _tell(runtime, running["id"], lease["id"])
    waiting = runtime.create(prompt=PROMPTS[4][0], agent_slug="analyst", context_id="pictures", labels=["gpu"])
    runtime.create(prompt=PROMPTS[2][0], agent_slug="translator", context_id="docs-uk", priority=5)
    cancelled = runtime.create(prompt=PROMPTS[0][0], agent_slug="writer", context_id="release-notes")
    told(runtime.post(f"/llm-tasks/{cancelled['id']}/cancel"))
    # As if it had gone on for hours, one task after the other.
    database.edit(
        """update bloom.leases set ended_at = ended_at - (30 - seq) * interval '4 minutes',
           started_at = started_at - (30 - seq) * interval '4 minutes' - (seq %% 9 + 1) * interval '7 seconds'
           where status <> 'active'"""
    )
    database.edit(
        """update bloom.tasks set created_at = created_at - (30 - seq) * interval '4 minutes' - interval '90 seconds',
           updated_at = updated_at - (30 - seq) * interval '4 minutes'"""
    )
    database.edit("update bloom.results r set completed_at = l.ended_at from bloom.leases l where l.id = r.lease_id")
    database.edit(
        """insert into bloom.activity (minute, created, started, completed, failed, waits, wait_sec, tokens, cost_usd)
           select date_trunc('minute', now()) - n * interval '1 minute', c, c, c, (n %% 17 = 3)::integer, c,
                  c * (1.5 + n * 5 %% 11 / 3.0), c * 2600, c * 0.034
           from generate_series(1, 59) n, lateral (select (3 + 2 * sin(n / 6.0) + n %% 3)::integer as c) made"""
    )
    return ids | {"failed": failed["id"], "dead": dead["id"], "running": running["id"], "queued": waiting["id"]}


def _tell(runtime: Replica, task_id: str, lease_id: str) -> None:
    said: tuple[tuple[str, dict[str, Any]], ...] = (
        ("status", {"state": "started", "model": "claude"}),
        ("thinking", {"text": "The changelog first, then the figures."}),
        ("text", {"text": "I read the changelog and the last measurements.\n\n"}),
        ("tool_use", {"id": "1", "name": "Read", "input": {"file_path": "CHANGELOG.md"}}),
        ("tool_result", {"id": "1", "content": "# Changelog\n\n## Unreleased\n…", "is_error": False}),
        ("text", {"text": "Claims are answered in one statement now; what is left is to say it in few words."}),
    )
    events = [{"seq": n, "type": kind, "data": data} for n, (kind, data) in enumerate(said, 1)]
    told(runtime.post(f"/llm-tasks/{task_id}/events", {"lease_id": lease_id, "events": events}))


def pages(ids: Mapping[str, str]) -> dict[str, str]:
    """Addresses of all pages, by the names of their pictures."""
    tasks = {f"task-{state}": f"/tasks/{task_id}" for state, task_id in ids.items()}
    return {
        "overview": "/",
        "tasks": "/tasks",
        "tasks-none": "/tasks?text=nothing+like+it",
        "new-task": "/tasks/new",
        **tasks,
        "task-run": f"/tasks/{ids['completed']}/run",
        "workers": "/workers",
        "worker": "/workers/atlas",
        "worker-remove": "/workers/atlas/remove",
        "worker-add": "/add-worker",
        "artifacts": "/artifacts",
        "leases": "/leases",
        "audit": "/audit",
        "membridge": "/membridge",
        "settings": "/settings",
        "error": "/nowhere",
    }


def shoot(browser: Browser, url: str, wanted: Mapping[str, str]) -> None:
    """All of them in each look."""
    for look, options in LOOKS.items():
        context = browser.new_context(**options)
        page = context.new_page()
        for name, path in wanted.items():
            answer = page.goto(url + path)
            if answer is None or answer.status not in (200, 404):
                print(f"{path} is answered {answer and answer.status}", file=sys.stderr)  # noqa: T201
                continue
            if page.locator("#live-state").count() and page.locator("[sse-connect]").count():
                page.locator("#live-state.live").wait_for()
            page.screenshot(path=PLACE / f"{name}-{look}.png", full_page=True)
        context.close()


def main() -> None:
    """Make them all."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with (
        running_server() as postgres,
        postgres.database() as database,
        tempfile.TemporaryDirectory() as data,
        Replica(database.url, BLOOM_DATA_DIR=data) as runtime,
        sync_playwright() as playwright,
    ):
        ids = seed(runtime, database)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        shoot(browser, runtime.url, pages(ids))
        if "--docs" in sys.argv:
            DOCS.mkdir(parents=True, exist_ok=True)
            for name, path in (("overview", "/"), ("task", f"/tasks/{ids['completed']}")):
                page = browser.new_page(viewport={"width": 1100, "height": 700})
                page.goto(runtime.url + path)
                page.locator("#live-state.live").wait_for()
                page.screenshot(path=DOCS / f"{name}.png")
                page.close()
        browser.close()
    print(PLACE)  # noqa: T201


if __name__ == "__main__":
    main()
