"""The list of tasks, as a browser without scripts has it."""

import re
from collections.abc import Generator

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica
from visitor import ADMIN_KEY, Visitor, signed_in

from bloom.base.roles import Role
from bloom.tasks.service import tasks as service
from bloom.ui import tasks as pages


@pytest.fixture
def visitor(runtime: Replica) -> Generator[Visitor]:
    with Visitor(runtime.url) as visitor:
        yield visitor


def prompts(page: str) -> list[str]:
    """The tasks of a list, by their prompts."""
    return re.findall(r'id="prompt-[^"]*" href="[^"]*"><bdi>([^<]*)</bdi>', page)


def links(page: str, rel: str) -> list[str]:
    return [href.replace("&amp;", "&") for href in re.findall(rf'rel="{rel}" href="([^"]*)"', page)]


def test_each_filter_finds_its_own(runtime: Replica, visitor: Visitor) -> None:
    runtime.register("w1")
    runtime.create(prompt="Plain")
    runtime.create(prompt="Sums of МІСЯЦЬ", agent_slug="writer", context_id="books", labels=["gpu", "big"])
    runtime.leased("w1", prompt="Held")
    for filters, found in (
        ({"text": "місяць"}, ["Sums of МІСЯЦЬ"]),
        ({"agent": "writer"}, ["Sums of МІСЯЦЬ"]),
        ({"context": "books"}, ["Sums of МІСЯЦЬ"]),
        ({"label": "gpu"}, ["Sums of МІСЯЦЬ"]),
        ({"worker": "w1"}, ["Held"]),
        ({"status": "leased"}, ["Held"]),
        ({"status": "queued", "text": "p"}, ["Plain"]),
        ({"text": "nothing"}, []),
        ({}, ["Held", "Sums of МІСЯЦЬ", "Plain"]),
    ):
        assert prompts(visitor.page("/tasks", **filters)) == found, filters


def test_pages_follow_one_another_and_keep_the_filters(
    runtime: Replica, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE", 2)
    for number in range(5):
        runtime.create(prompt=f"p{number}", agent_slug="a" if number != 2 else "b")
    path, found = "/tasks?agent=a", list[list[str]]()
    while path:
        page = visitor.page(path)
        found.append(prompts(page))
        path = next(iter(links(page, "next")), "")
    assert found == [["p4", "p3"], ["p1", "p0"]]


def test_a_search_looks_at_so_many_tasks_and_then_asks_whether_to_go_on(
    runtime: Replica, visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REACH", 3)
    for prompt in ("needle", "hay", "hay", "hay", "hay"):
        runtime.create(prompt=prompt)
    page = visitor.page("/tasks", text="needle")
    assert prompts(page) == [] and "Nothing found so far" in page and "Look further back" in page
    (further,) = links(page, "next")
    page = visitor.page(further)
    assert prompts(page) == ["needle"] and not links(page, "next")


def test_those_ticked_are_cancelled_or_requeued_and_the_rest_is_told(runtime: Replica, visitor: Visitor) -> None:
    runtime.register()
    first, second = runtime.create(), runtime.create()
    done, lease = runtime.leased()
    runtime.complete(done["id"], lease["id"])
    ids = [first["id"], second["id"], done["id"]]
    answer = visitor.post("/tasks/change", what="cancel", id=ids, back="/tasks?agent=agent")
    assert answer.status_code == 303 and answer.headers["location"].startswith("/tasks?agent=agent&")
    page = visitor.page(answer.headers["location"])
    assert "2 tasks are cancelled" in page and "1 task stayed as it was" in page
    assert [runtime.task(task_id)["status"] for task_id in ids] == ["cancelled", "cancelled", "completed"]
    answer = visitor.post("/tasks/change", what="requeue", id=ids[:1], back="//evil.example")
    assert answer.headers["location"].startswith("/tasks?what=requeue")
    assert runtime.task(first["id"])["status"] == "queued"
    assert visitor.post("/tasks/change", what="burn", id=ids).status_code == 400


@pytest.mark.parametrize(
    "query", ["status=lost", "before=x", "before=-1", "text=%00", f"agent={'a' * 600}", "changed=many"]
)
def test_a_filter_that_cannot_be_names_the_field(quiet_runtime: Replica, query: str) -> None:
    with Visitor(quiet_runtime.url) as visitor:
        answer = visitor.get(f"/tasks?{query}")
        assert answer.status_code == 400 and f"{query.split('=')[0]}: Must be" in answer.text


def test_an_empty_list_says_how_to_begin(quiet_runtime: Replica) -> None:
    with Visitor(quiet_runtime.url) as visitor:
        assert "Nothing was submitted yet" in visitor.page("/tasks")
        assert "No task is like this" in visitor.page("/tasks", text="x")
    with Visitor(quiet_runtime.url, **{"Accept-Language": "uk"}) as visitor:
        assert "Ще нічого не надіслано" in visitor.page("/tasks")


def test_a_reader_looks_and_changes_nothing(start_replica: StartReplica, database: FreshDatabase) -> None:
    runtime = start_replica(RUNTIME_API_KEY=ADMIN_KEY)
    task = runtime.create()
    path = f"/tasks/{task['id']}"
    with signed_in(runtime, Role.READER) as reader, signed_in(runtime) as admin:
        for page in (reader.page("/tasks"), reader.page(path)):
            assert "New task" not in page and "Cancel" not in page and "again with changes" not in page
        assert "Cancel" in admin.page(path)
        assert reader.get("/tasks/new").status_code == 403
        for form in ("/tasks/new", "/tasks/change", f"{path}/cancel", f"{path}/requeue"):
            assert reader.post(form, what="cancel", id=task["id"], prompt="x", agent_slug="a").status_code == 403, form
    assert database.value("select string_agg(status, ' ') from bloom.tasks") == "queued"


def test_a_form_of_another_site_changes_nothing(runtime: Replica) -> None:
    task = runtime.create()
    with Visitor(runtime.url) as visitor:
        for headers in ({}, {"Sec-Fetch-Site": "cross-site"}):
            answer = visitor.http.post(f"/tasks/{task['id']}/cancel", data={"form_token": "made up"}, headers=headers)
            assert answer.status_code == 403 and "another session" in answer.text
    assert runtime.task(task["id"])["status"] == "queued"
