"""The page of one task, as a browser without scripts has it, and what it is sent as it happens."""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, success, told
from visitor import Visitor, words_of

from bloom.client.sse import EventParser, RawEvent

LONG = "x" * 16_000


@pytest.fixture
def visitor(runtime: Replica) -> Generator[Visitor]:
    with Visitor(runtime.url) as visitor:
        yield visitor


def say(runtime: Replica, task_id: str, lease_id: str, *texts: str, first: int = 1, kind: str = "text") -> None:
    events = [{"seq": n, "type": kind, "data": {"text": text}} for n, text in enumerate(texts, first)]
    told(runtime.post(f"/llm-tasks/{task_id}/events", {"lease_id": lease_id, "events": events}))


@contextmanager
def following(runtime: Replica, task_id: str, **query: Any) -> Generator[Iterator[RawEvent]]:
    """The events that the page of a task gets."""
    with runtime.http.stream("GET", f"{runtime.url}/live/tasks/{task_id}", params=query) as answer:
        assert answer.status_code == 200
        parser = EventParser()
        yield (event for chunk in answer.iter_bytes() for event in parser.feed(chunk))


def texts_of(event: RawEvent) -> list[str]:
    return re.findall(r'<span class="run-text">([^<]*)</span>', event.data)


def test_who_comes_late_sees_the_end_and_finds_the_rest_page_by_page(runtime: Replica, visitor: Visitor) -> None:
    runtime.register()
    task, lease = runtime.leased()
    for n in range(8):
        say(runtime, task["id"], lease["id"], f"[part {n}]{LONG}", first=n + 1)
    page = visitor.page(f"/tasks/{task['id']}")
    assert "[part 7]" in page and "[part 0]" not in page and len(page) < 100_000
    assert 'data-after="8"' in page and "What was said before is shown page by page." in page
    assert [f"[part {n}]" in visitor.page(f"/tasks/{task['id']}/run") for n in range(8)] == [True] * 8
    assert "[part 3]" not in visitor.page(f"/tasks/{task['id']}/run", after=4)


def test_a_page_gets_what_is_said_after_what_it_shows_joined_and_numbered(runtime: Replica) -> None:
    runtime.register()
    runtime.until_listening()
    task, lease = runtime.leased()
    say(runtime, task["id"], lease["id"], "one ", "two ", "three ")
    with following(runtime, task["id"], after=1) as events:
        heard = next(event for event in events if event.event == "said")
        assert (heard.id, texts_of(heard)) == ("3", ["two three "])
        assert "Attempt" not in heard.data
        say(runtime, task["id"], lease["id"], "hm", first=4, kind="thinking")
        heard = next(event for event in events if event.event == "said")
        assert heard.id == "4" and "<summary>Thinking</summary>" in heard.data
        runtime.complete(task["id"], lease["id"], output="**done**")
        region = next(event for event in events if event.event == "region" and "result-title" in event.data)
        assert "<strong>done</strong>" in region.data and "form_token" not in region.data
    with following(runtime, task["id"]) as events:
        heard = next(event for event in events if event.event == "said")
        assert heard.id == "4" and texts_of(heard) == ["one two three "] and "Attempt 1" in heard.data


def test_a_page_that_stays_open_hears_of_the_next_attempt_after_a_requeue(runtime: Replica) -> None:
    runtime.register()
    runtime.until_listening()
    task, lease = runtime.leased()
    say(runtime, task["id"], lease["id"], "first")
    runtime.fail(task["id"], lease["id"])
    with following(runtime, task["id"], after=1) as events:
        assert next(events).event == "region"
        runtime.post(f"/llm-tasks/{task['id']}/requeue")
        again = runtime.lease(task["id"], "worker")
        say(runtime, task["id"], again["id"], "second")
        heard = next(event for event in events if event.event == "said")
        assert heard.id == "2" and texts_of(heard) == ["second"] and "Attempt 2" in heard.data


def test_the_timeline_tells_why_each_attempt_ended(runtime: Replica, visitor: Visitor, database: FreshDatabase) -> None:
    runtime.register("silent")
    runtime.register("fails")
    task, lost = runtime.leased("silent", max_attempts=3)
    database.expire(lost["id"])
    runtime.reap()
    report = {**success("too late"), "task_id": task["id"], "lease_id": lost["id"]}
    told(runtime.post("/workers/silent/complete", {"completions": [report]}))
    second = runtime.lease(task["id"], "fails")
    runtime.fail(task["id"], second["id"], error_message="The disk is full.", code="disk_full")
    words = words_of(visitor.page(f"/tasks/{task['id']}"))
    for part in (
        "Attempt 1 · silent",
        "Nothing was heard of the worker in time.",
        "under a lease that was lost: nothing came of it",
        "Attempt 2 · fails",
        "The disk is full. disk_full",
        "lease_expired",
    ):
        assert part in words, part


def test_an_answer_in_json_is_unfolded_and_a_broken_one_is_shown_as_it_is(runtime: Replica, visitor: Visitor) -> None:
    runtime.register(slots=3)
    for output, shown in (('{"a": [1, {"b": null}]}', '<div class="json">'), ("no json", '<div class="prose"')):
        task, lease = runtime.leased(desired_format="json")
        runtime.complete(task["id"], lease["id"], output=output)
        page = visitor.page(f"/tasks/{task['id']}")
        assert shown in page and ('<div class="json">' in page) == (shown == '<div class="json">')
    task, lease = runtime.leased(desired_format="json")
    runtime.complete(task["id"], lease["id"], output="[" * 900 + "]" * 900)
    assert "[[[[" in visitor.page(f"/tasks/{task['id']}")


def test_a_large_output_is_begun_on_the_page_and_downloaded_whole(runtime: Replica, visitor: Visitor) -> None:
    runtime.register()
    task, lease = runtime.leased(prompt="p" * 40_000)
    output = "line\n" * 400_000
    runtime.complete(task["id"], lease["id"], output=output)
    page = visitor.page(f"/tasks/{task['id']}")
    assert len(page) < 200_000 and page.count("This is the beginning") == 2
    (result,) = told(runtime.get(f"/llm-tasks/{task['id']}/results"))
    assert visitor.page(f"/tasks/{task['id']}/results/{result['id']}") == output
    assert visitor.page(f"/tasks/{task['id']}/prompt") == "p" * 40_000


@pytest.mark.parametrize("path", ["", "/run", "/prompt", "/results/none"])
def test_what_is_not_there_is_a_page_that_says_so(quiet_runtime: Replica, path: str) -> None:
    with Visitor(quiet_runtime.url) as visitor:
        for task_id in ("none", "%00", "x" * 600):
            answer = visitor.get(f"/tasks/{task_id}{path}")
            assert answer.status_code == 404 and "<h1>" in answer.text, task_id
        assert visitor.get("/live/tasks/none").status_code == 404


def test_what_a_task_allows_is_offered_and_a_late_click_is_told(runtime: Replica, visitor: Visitor) -> None:
    task = runtime.create()
    path = f"/tasks/{task['id']}"
    assert f"{path}/cancel" in visitor.page(path) and f"{path}/requeue" not in visitor.page(path)
    answer = visitor.post(f"{path}/cancel", on=path)
    assert answer.status_code == 303 and "is cancelled" in visitor.page(answer.headers["location"])
    assert f"{path}/requeue" in visitor.page(path) and f"{path}/cancel" not in visitor.page(path)
    answer = visitor.post(f"{path}/cancel", on=path)
    assert answer.status_code == 409 and "The task has ended already." in answer.text
    assert visitor.post(f"{path}/requeue", on=path).status_code == 303
    answer = visitor.post(f"{path}/requeue", on=path)
    assert answer.status_code == 409 and "Only a failed, dead or cancelled task can be requeued." in answer.text
