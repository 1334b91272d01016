"""What a person does with tasks: a real browser, a real server and a real worker."""

import json
import re
import sys
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from browsers import OpenPage, accessibility_problems
from playwright.sync_api import Page, expect
from tests.real_postgres import FreshDatabase, PostgresServer, eventually
from tests.real_runtime import Served, told
from tests.real_worker import NO_LIMITS, RealWorker

# Says its prompt. "hold": waits in the middle of it for the file `go-TASK`. "fail": fails unless there is a file `mended`.
SCRIPT = """
import os, sys, time
here, task = sys.argv[1], os.environ["BLOOM_TASK_ID"]
prompt = sys.stdin.read()
if prompt.startswith("fail") and not os.path.exists(os.path.join(here, "mended")):
    sys.exit("The paper is out.")
half = len(prompt) // 2
print(prompt[:half], end="", flush=True)
while prompt.startswith("hold") and not os.path.exists(os.path.join(here, "go-" + task)):
    time.sleep(0.01)
print(prompt[half:], end="", flush=True)
"""


@dataclass(frozen=True)
class Stack:
    server: Served
    worker: RealWorker
    database: FreshDatabase

    def open(self, page: Page, path: str) -> Page:
        page.goto(self.server.url + path)
        return page

    def done(self, prompt: str) -> str:
        """The id of a task that has come to its end."""
        task_id = self.server.create(prompt=prompt)["id"]
        eventually(lambda: self.server.task(task_id)["status"] in ("completed", "failed"), within_sec=60)
        return task_id


@pytest.fixture(scope="module")
def stack(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """One server process and one worker process for all journeys of this module."""
    directory = tmp_path_factory.mktemp("stack")
    script = directory / "script.py"
    script.write_text(SCRIPT)
    argv = json.dumps([sys.executable, "-I", "-S", str(script), str(directory / "worker")])
    with postgres_server.database() as database, ExitStack() as stack:
        server = Served(database.url, directory / "serve.log")
        stack.callback(server.stop)
        server.start()
        worker = RealWorker(
            server.url,
            directory / "worker",
            slots=4,
            config=f"stop_grace_sec = 0\n[command]\nargv = {argv}\n{NO_LIMITS}",
        )
        stack.callback(worker.kill)
        worker.start()
        yield Stack(server, worker, database)


def submit(stack: Stack, page: Page, prompt: str) -> str:
    """Fill in the form; the id of the task to whose page it leads."""
    stack.open(page, "/tasks")
    page.get_by_role("link", name="New task").first.click()
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Create the task").click()
    expect(page).to_have_url(re.compile(r"/tasks/[0-9a-f-]{36}"))
    return page.url.split("/tasks/")[1].partition("?")[0]


def expect_state(page: Page, state: str) -> None:
    expect(page.locator("#state-title .state")).to_have_text(state)


def said(page: Page) -> str:
    """The text of the run, as far as it is shown."""
    return "".join(page.locator("#run .run-text").all_text_contents())


def test_submit_a_task_and_watch_it_to_the_end(stack: Stack, page: Page) -> None:
    prompt = "hold: it begins here, and ends with **strong words** and [a link](https://example.org)."
    task_id = submit(stack, page, prompt)
    expect(page.get_by_text("The task is in the queue.")).to_be_visible()
    expect_state(page, "running")
    expect(page.locator("#run")).to_contain_text("it begins here")
    expect(page.locator("#live-state")).to_have_text("live")
    stack.worker.let_go(task_id)
    expect_state(page, "completed")
    expect(page.locator(".prose strong")).to_have_text("strong words")
    expect(page.locator("#run")).to_contain_text("strong words")
    assert said(page) == prompt
    expect(page.locator("#tries-title + ol li")).to_have_count(1)


def test_follow_a_failing_task_and_requeue_it(stack: Stack, page: Page) -> None:
    submit(stack, page, "fail, and then not")
    expect_state(page, "failed")
    expect(page.locator(".callout.bad")).to_contain_text("The paper is out.")
    (stack.worker.directory / "mended").touch()
    page.get_by_role("button", name="Requeue").click()
    expect(page.get_by_text("The task is in the queue again.")).to_be_visible()
    expect_state(page, "completed")
    expect(page.locator("#tries-title + ol li")).to_have_count(2)
    assert said(page) == "fail, and then not"


def test_cancel_a_running_task(stack: Stack, page: Page) -> None:
    submit(stack, page, "hold on for ever")
    expect(page.locator("#run")).to_contain_text("hold on")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("The task is cancelled, or will be")).to_be_visible()
    expect_state(page, "cancelled")
    expect(page.get_by_role("button", name="Requeue")).to_be_visible()


def test_find_last_weeks_task_and_run_it_again_with_changes(stack: Stack, page: Page) -> None:
    wanted = stack.done("Count the swallows of Odesa")
    stack.database.edit("update bloom.tasks set created_at = now() - interval '7 days' where id = %(id)s", id=wanted)
    many = [{"context_id": "c", "agent_slug": "a", "prompt": f"other {n}", "labels": ["nowhere"]} for n in range(60)]
    told(stack.server.post("/llm-tasks/batch", {"tasks": many}))
    stack.open(page, "/tasks")
    expect(page.get_by_role("link", name="Count the swallows of Odesa")).to_have_count(0)
    page.get_by_label("Text of the prompt").fill("SWALLOWS")
    page.get_by_role("button", name="Filter").click()
    row = page.locator(f"#task-{wanted}")
    expect(row).to_contain_text("1 week ago")
    row.get_by_role("link", name="Count the swallows").click()
    expect_state(page, "completed")
    page.get_by_role("link", name="Run again with changes").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("Count the swallows of Odesa")
    page.get_by_label("Prompt", exact=True).fill("Count the storks of Odesa")
    page.get_by_role("button", name="Create the task").click()
    expect_state(page, "completed")
    expect(page.locator("#prompt-text")).to_have_text("Count the storks of Odesa")


def test_read_and_download_an_artifact(stack: Stack, page: Page, tmp_path: Path) -> None:
    task_id = stack.done("Fünf Wörter für die Akte")
    stack.open(page, f"/tasks/{task_id}")
    with page.expect_download() as download:
        page.locator("section", has=page.get_by_role("heading", name="Result")).get_by_role(
            "link", name="Download"
        ).click()
    download.value.save_as(tmp_path / "result.txt")
    assert (tmp_path / "result.txt").read_bytes() == "Fünf Wörter für die Akte".encode()
    page.get_by_role("link", name="LLM_RESULT").click()
    expect(page.get_by_role("main")).to_contain_text("Fünf Wörter für die Akte")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    download.value.save_as(tmp_path / "artifact.txt")
    assert (tmp_path / "artifact.txt").read_bytes() == "Fünf Wörter für die Akte".encode()


def test_a_server_that_restarts_in_mid_stream_is_shown_and_caught_up_with(stack: Stack, page: Page) -> None:
    prompt = "hold while the server goes away; nothing is lost, and nothing is told twice."
    task_id = submit(stack, page, prompt)
    expect(page.locator("#run")).to_contain_text("hold while the server")
    stack.server.kill()
    expect(page.locator("#live-state")).to_have_text("connection lost, trying again")
    stack.server.start()
    stack.worker.let_go(task_id)
    expect_state(page, "completed")
    expect(page.locator("#live-state")).to_have_text("live")
    expect(page.locator("#run")).to_contain_text("told twice.")
    assert said(page) == prompt


def test_what_is_ticked_or_unfolded_stays_so_while_the_list_lives(stack: Stack, page: Page) -> None:
    first = stack.server.create(prompt="tick me", labels=["nowhere"])["id"]
    stack.open(page, "/tasks?label=nowhere&text=tick")
    expect(page.locator("#live-state")).to_have_text("live")
    cancel = page.get_by_role("button", name="Cancel selected")
    expect(cancel).to_be_disabled()
    page.locator(f"#tick-{first}").check()
    second = stack.server.create(prompt="tick me too", labels=["nowhere"])["id"]
    expect(page.locator(f"#task-{second}")).to_be_visible()
    expect(page.locator(f"#tick-{first}")).to_be_checked()
    expect(cancel).to_contain_text("(1)")
    page.get_by_label("Select all on this page").check()
    cancel.click()
    expect(page.get_by_text("2 tasks are cancelled")).to_be_visible()
    assert [stack.server.task(task_id)["status"] for task_id in (first, second)] == ["cancelled"] * 2


def test_without_scripts_the_list_the_form_and_the_task_work(stack: Stack, open_page: OpenPage) -> None:
    page = open_page(java_script=False)
    task_id = submit(stack, page, "Without scripts")
    eventually(lambda: stack.server.task(task_id)["status"] == "completed", within_sec=60)
    page.reload()
    expect_state(page, "completed")
    expect(page.locator(".prose")).to_have_text("Without scripts\n")
    expect(page.locator("#run")).to_contain_text("Without scripts")
    other = stack.server.create(prompt="waits", labels=["no one"])["id"]
    stack.open(page, "/tasks?label=no one")
    page.locator(f"#tick-{other}").check()
    page.get_by_role("button", name="Cancel selected").click()
    expect(page.get_by_text("1 task is cancelled")).to_be_visible()


def test_axe_finds_nothing_wrong_with_the_pages_of_tasks(stack: Stack, page: Page) -> None:
    done = stack.done("# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n- list\n\n`code`")
    problems: dict[str, list[str]] = {}
    for path in ("/tasks", "/tasks?text=nothing+like+it", "/tasks/new", f"/tasks/{done}", f"/tasks/{done}/run"):
        stack.open(page, path)
        problems[path] = accessibility_problems(page)
    page.goto(f"{stack.server.url}/tasks/new")
    page.get_by_role("button", name="Create the task").click()
    expect(page.get_by_role("alert")).to_be_visible()
    problems["refused form"] = accessibility_problems(page)
    assert not any(problems.values()), json.dumps(problems, indent=1)
