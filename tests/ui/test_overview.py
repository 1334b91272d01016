"""The overview says what the fleet does and what needs a person, and follows it live."""

import re
import zlib
from collections.abc import Generator

import httpx
import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, told

from bloom.client.sse import EventParser
from bloom.ui.charts import HEIGHT, WIDTH, bars


def page(runtime: Replica, **headers: str) -> str:
    """The overview."""
    answer = runtime.http.get(runtime.url + "/", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.text


def trouble(text: str) -> set[str]:
    """The kinds of trouble that a page tells of."""
    return set(re.findall(r'id="trouble-(\w+)"', text))


def test_an_empty_fleet_is_told_what_to_do_first(runtime: Replica) -> None:
    text = page(runtime)
    assert trouble(text) == {"none"}
    assert 'href="/tasks/new"' in text and 'href="/workers"' in text


def test_counts_and_workers_are_those_of_the_tables(runtime: Replica) -> None:
    runtime.register("pi", slots=2)
    runtime.leased("pi")
    text = page(runtime)
    assert trouble(text) == set()
    assert re.search(r'href="/tasks\?status=leased">1</a>', text)
    assert "1 of 2 slots in use" in text


def test_what_needs_a_person_is_told_with_the_remedy(runtime: Replica, database: FreshDatabase) -> None:
    runtime.register("pi")
    task, lease = runtime.leased("pi", max_attempts=1)
    told(runtime.fail(task["id"], lease["id"], retryable=True))
    waiting = runtime.create(labels=["gpu"])
    database.edit(
        "update bloom.tasks set updated_at = now() - interval '6 minutes' where id = %(id)s", id=waiting["id"]
    )
    database.edit("update bloom.workers set status = 'offline'")
    text = page(runtime)
    assert trouble(text) == {"dead", "wait", "worker"}
    assert "6 min" in text and 'href="/tasks?status=dead"' in text


def test_the_page_speaks_the_readers_language(runtime: Replica) -> None:
    assert '<html lang="uk">' in page(runtime, **{"Accept-Language": "uk-UA,uk;q=0.9,en;q=0.5"})
    assert "Потребує уваги" in page(runtime, **{"Accept-Language": "uk"})
    assert '<html lang="en">' in page(runtime, **{"Accept-Language": "de"})


def test_names_that_look_like_markup_are_text(runtime: Replica) -> None:
    runtime.create(prompt="<script>alert(1)</script>", agent_slug='"><img src=x onerror=alert(1)>')
    text = page(runtime)
    assert "<script>alert" not in text and "<img src=x" not in text


def regions(answer: httpx.Response) -> Generator[str]:
    """The regions that a live stream sends."""
    parser = EventParser()
    for chunk in answer.iter_bytes():
        yield from (event.data for event in parser.feed(chunk) if event.event == "region")


def test_a_change_in_another_replica_is_seen_live(runtime: Replica, start_replica: StartReplica) -> None:
    other = start_replica()
    other.until_listening()
    with other.http.stream("GET", other.url + "/live/") as answer:
        seen = regions(answer)
        assert 'id="recent"' in next(seen)
        task = runtime.create()
        assert any(task["id"] in region for region in seen)


def test_a_shared_region_holds_nothing_personal(runtime: Replica) -> None:
    with runtime.http.stream("GET", runtime.url + "/live/") as answer:
        assert "form_token" not in next(regions(answer))


@pytest.mark.parametrize("greatest", [0, 0.003, 1, 7, 99, 1_234_567])
def test_bars_stay_within_their_chart(greatest: float) -> None:
    chart = bars([(("completed", greatest), ("failed", greatest / 3)) for _ in range(60)])
    assert (not chart.bars) is (greatest == 0)
    for bar in chart.bars:
        assert bar.x >= 0 and bar.x + bar.width <= WIDTH and bar.y >= 0 and bar.y + bar.height <= HEIGHT
    assert chart.ticks[-1][1] >= greatest


def test_the_first_page_with_all_it_loads_is_small(runtime: Replica) -> None:
    text = page(runtime)
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', text)
    assert len(loaded) >= 6
    contents = [text.encode(), *(runtime.http.get(runtime.url + file).content for file in dict.fromkeys(loaded))]
    assert sum(len(zlib.compress(content)) for content in contents) < 150_000
