"""The form for a new task, as a browser without scripts has it."""

import re
from collections.abc import Generator
from typing import Any

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica
from visitor import Visitor

FORM = "/tasks/new"
LEAST = {"prompt": "Do it.", "agent_slug": "default"}
ALL = {
    "prompt": "Line one\r\nline two",
    "agent_slug": "writer",
    "context_id": "books",
    "context_hints": "first hint\r\n\r\nsecond hint\r\n",
    "desired_format": "json",
    "timeout_sec": "90",
    "budget": "0,5",
    "max_attempts": "5",
    "priority": "-3",
    "run_at": "2031-05-06T07:08",
    "offset": "-180",
    "labels": "gpu, big",
    "concurrency_key": "one at a time",
    "retry_base_sec": "1.5",
    "retry_max_sec": "60",
    "idempotency_key": "k1",
}


@pytest.fixture
def visitor(runtime: Replica) -> Generator[Visitor]:
    with Visitor(runtime.url) as visitor:
        yield visitor


def created(visitor: Visitor, runtime: Replica, **fields: Any) -> dict[str, Any]:
    """The task that the form made, to whose page it led."""
    answer = visitor.post(FORM, on=FORM, **fields)
    assert answer.status_code == 303, answer.text
    found = re.fullmatch(r"/tasks/([^/?]+)\?notice=task_created", answer.headers["location"])
    assert found is not None
    assert "The task is in the queue." in visitor.page(answer.headers["location"])
    return runtime.task(found[1])


def value_of(page: str, name: str) -> str:
    found = re.search(rf'<input id="{name}"[^>]* value="([^"]*)"', page)
    assert found is not None, name
    return found[1]


def test_everything_that_a_task_may_have_arrives(runtime: Replica, visitor: Visitor) -> None:
    task = created(visitor, runtime, **ALL)
    told = {
        "prompt": "Line one\nline two",
        "agent_slug": "writer",
        "context_id": "books",
        "context_hints": ["first hint", "second hint"],
        "desired_format": "json",
        "policy": {"timeout_sec": 90, "budget": 0.5},
        "max_attempts": 5,
        "priority": -3,
        "run_at": 1935806880000,  # 04:08 UTC: the reader's clock is three hours ahead
        "labels": ["gpu", "big"],
        "concurrency_key": "one at a time",
        "retry": {"base_sec": 1.5, "max_sec": 60},
    }
    assert {name: task[name] for name in told} == told


def test_a_prompt_and_an_agent_are_enough_and_each_task_gets_a_context_of_its_own(
    runtime: Replica, visitor: Visitor
) -> None:
    tasks = [created(visitor, runtime, **LEAST) for _ in range(2)]
    assert tasks[0]["context_id"] != tasks[1]["context_id"]
    assert tasks[0]["policy"] == {"timeout_sec": 600, "budget": 0} and tasks[0]["labels"] == []


def test_a_form_that_is_sent_twice_makes_one_task(runtime: Replica, visitor: Visitor, database: FreshDatabase) -> None:
    key = value_of(visitor.page(FORM), "idempotency_key")
    assert created(visitor, runtime, **LEAST, idempotency_key=key) == created(
        visitor, runtime, **LEAST, idempotency_key=key
    )
    answer = visitor.post(FORM, on=FORM, **{**LEAST, "prompt": "Another."}, idempotency_key=key)
    assert answer.status_code == 400 and "This key was used for another task" in answer.text
    assert database.value("select count(*) from bloom.tasks") == 1


def test_a_prompt_comes_as_a_file_too(runtime: Replica, visitor: Visitor) -> None:
    file = ("prompt.txt", "\ufeffЗ файлу".encode())
    assert created(visitor, runtime, prompt="", agent_slug="a", files={"prompt_file": file})["prompt"] == "З файлу"
    for content, typed, problem in ((b"\xff\xfe\x00", "", "text file in UTF-8"), (b"x", "y", "not both")):
        sent = {"prompt_file": ("prompt.txt", content)}
        answer = visitor.post(FORM, on=FORM, prompt=typed, agent_slug="a", files=sent)
        assert answer.status_code == 400 and problem in answer.text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("prompt", "  ", "Must have at least 1 character"),
        ("prompt", "a\0b", "Must not contain NUL characters"),
        ("agent_slug", "", "Must have at least 1 character"),
        ("context_id", "c" * 513, "Must have at most 512 characters"),
        ("timeout_sec", "0", "Must be at least 1"),
        ("timeout_sec", "soon", "Must be a whole number"),
        ("budget", "-1", "Must be at least 0"),
        ("budget", "nan", "Must be a finite number"),
        ("max_attempts", "11", "Must be at most 10"),
        ("priority", "99999", "Must be at most 32767"),
        ("run_at", "tomorrow", "Must be a date and a time"),
        ("labels", "x" * 200, "Must have at most 128 characters"),
        ("desired_format", "html", "text"),
        ("retry_max_sec", "1e9", "Must be at most 86400"),
    ],
)
def test_what_does_not_fit_is_told_at_its_field_and_the_rest_is_kept(
    quiet_runtime: Replica, name: str, value: str, words: str
) -> None:
    with Visitor(quiet_runtime.url) as visitor:
        answer = visitor.post(FORM, on=FORM, **{**ALL, "idempotency_key": "", name: value})
    assert answer.status_code == 400
    told = re.search(rf'id="{name}-problem">([^<]*)<', answer.text)
    assert told is not None and words in told[1]
    assert len(re.findall(r'id="[a-z_]+-problem"', answer.text)) == 1
    if name != "context_id":
        assert value_of(answer.text, "context_id") == "books"
    assert quiet_runtime.get("/llm-tasks").json() == []


def test_problems_are_told_in_the_readers_language(quiet_runtime: Replica) -> None:
    with Visitor(quiet_runtime.url, **{"Accept-Language": "uk"}) as visitor:
        answer = visitor.post(FORM, on=FORM, **{**LEAST, "max_attempts": "11"})
    assert "Має бути не більше ніж 10" in answer.text


def test_the_last_values_are_kept_but_the_prompt_is_not(runtime: Replica, visitor: Visitor) -> None:
    created(visitor, runtime, **ALL)
    page = visitor.page(FORM)
    for name in ("agent_slug", "context_id", "timeout_sec", "labels", "concurrency_key"):
        assert value_of(page, name) == ALL[name]
    assert "line two" not in page and value_of(page, "run_at") == "" and value_of(page, "idempotency_key") != "k1"
    visitor.http.cookies.set("bloom_new_task", "W10", path="/")
    assert value_of(visitor.page(FORM), "agent_slug") == "default"


def test_run_again_begins_with_all_that_the_task_had(runtime: Replica, visitor: Visitor) -> None:
    task = created(visitor, runtime, **ALL)
    page = visitor.page(FORM, **{"from": task["id"]})
    assert "Line one\nline two</textarea>" in page
    assert value_of(page, "labels") == "gpu, big" and value_of(page, "budget") == "0.5"
    assert visitor.get(FORM, **{"from": "no such"}).status_code == 404
