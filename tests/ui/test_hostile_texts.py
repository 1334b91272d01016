"""Whatever a model, a tool, a worker or another user writes is shown as text: it runs nothing, loads nothing, leads nowhere."""

import re
from typing import Any

import pytest
from browsers import OpenPage
from playwright.sync_api import Page, expect
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, told

from bloom.ui.markdown import LONGEST_CHARS, render_markdown

SAMPLES = (
    "<script>window.pwned = 1; alert(1)</script>",
    '<img src=x onerror="window.pwned = 1; alert(1)">',
    "<svg onload=alert(1)><a href='javascript:alert(1)'>x</a></svg>",
    "</pre></details></textarea><iframe src=https://evil.example/></iframe>",
    "<style>@import 'https://evil.example/x.css'</style><link rel=stylesheet href=//evil.example/y.css>",
    "<form action=https://evil.example/><input name=key autofocus onfocus=alert(1)></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example/'>",
    "![x](https://evil.example/pixel.png) ![y](//evil.example/z.png) ![z](data:image/svg+xml;base64,PHN2Zy8+)",
    "[a](javascript:alert(1)) [b](JaVaScRiPt:alert(1)) [c](data:text/html,<script>alert(1)</script>) [d](vbscript:x)",
    '[e](https://example.org/ "t\\" onmouseover=alert(1) x=\\"") <https://example.org/?q="onclick=alert(1)> [f](/sign-out)',
    '| a |\n|:-:|\n| <b onclick=alert(1)>b</b> |\n\n```html" onload="alert(1)\n<script>alert(1)</script>\n```',
    "' onclick='alert(1)' \" onclick=\"alert(1)\" {{ 7 * 7 }} {% include 'base.html' %} &lt;b&gt; &#106;avascript:alert(1)",
    "\u202eright to left\u202c \u2066isolate \x1b[31mred\x07\x08 \u2028line\u2029 \ufeff",
)
ALL = "\n\n".join(SAMPLES)
EVENTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("status", {"state": "started", "model": ALL}),
    ("text", {"text": ALL}),
    ("thinking", {"text": ALL}),
    ("tool_use", {"id": "1", "name": ALL, "input": {"command": ALL, ALL: [ALL]}}),
    ("tool_result", {"id": "1", "content": ALL, "is_error": True}),
    ("retry", {"attempt": ALL, "max_retries": 3, "error": ALL}),
    ("rate_limit", {"status": ALL, "limit": ALL}),
    ("error", {"code": ALL, "message": ALL}),
    (ALL[:60], {ALL: ALL}),
    ("text", {"text": {"not": "text"}}),
)


class Harm:
    """A worker that answers with all of it. Its own name is one of the samples."""

    def __init__(self, runtime: Replica) -> None:
        self.runtime = runtime
        labels = [sample[:128] for sample in SAMPLES[:4]]
        self.worker = runtime.register(SAMPLES[1], slots=4, capabilities={"labels": labels})["id"]

    def begin(self, **fields: Any) -> tuple[str, str]:
        one = {"prompt": ALL, "agent_slug": SAMPLES[0], "context_id": SAMPLES[1], "concurrency_key": SAMPLES[11]}
        labels = [sample[:128] for sample in SAMPLES[:4]]
        task = self.runtime.create(**{**one, "context_hints": list(SAMPLES), "labels": labels, **fields})
        lease = self.runtime.lease(task["id"], self.worker)
        return task["id"], lease["id"]

    def speak(self, task_id: str, lease_id: str) -> None:
        events = [{"seq": n, "type": kind[:64], "data": data} for n, (kind, data) in enumerate(EVENTS, 1)]
        told(self.runtime.post(f"/llm-tasks/{task_id}/events", {"lease_id": lease_id, "events": events}))

    def end(self, task_id: str, lease_id: str, **fields: Any) -> None:
        metrics = {"duration_ms": 1, "tokens_used": 2, "model": ALL, ALL[:100]: ALL}
        tags = [sample[:255] for sample in SAMPLES]
        report = {"artifact_type": SAMPLES[0], "artifact_tags": tags, "metrics": metrics, "output": ALL, **fields}
        told(self.runtime.complete(task_id, lease_id, **report))


@pytest.fixture
def harm(runtime: Replica) -> Harm:
    return Harm(runtime)


def expect_harmless(page: Page) -> None:
    """No element of theirs, no link but those that lead away with care or stay with us."""
    assert page.evaluate("window.pwned") is None
    for element in ("img", "iframe", "script", "style", "svg", "object", "meta", "input[name=key]"):
        assert page.locator(f"main {element}").count() == 0, element
    attributes = "els => els.flatMap(e => [...e.attributes].map(a => a.name))"
    names = set(page.locator("main *").evaluate_all(attributes))
    assert not {name for name in names if name.startswith("on") or name == "style"}, names
    for href, rel in page.locator("main a[href]").evaluate_all("els => els.map(e => [e.getAttribute('href'), e.rel])"):
        assert href.startswith(("/", "#")) or (
            href.startswith(("http://", "https://", "mailto:")) and rel == "noopener noreferrer nofollow"
        ), href


def test_a_hostile_run_is_shown_as_text_as_it_comes_and_to_who_comes_late(
    harm: Harm, page: Page, open_page: OpenPage
) -> None:
    harm.runtime.until_listening()
    task_id, lease_id = harm.begin()
    page.goto(f"{harm.runtime.url}/tasks/{task_id}")
    expect(page.locator("#live-state")).to_have_text("live")
    harm.speak(task_id, lease_id)
    expect(page.locator("#run .run-part").first).to_be_attached()
    harm.end(task_id, lease_id)
    expect(page.locator("#result-title")).to_be_visible()
    late = open_page()
    late.goto(f"{harm.runtime.url}/tasks/{task_id}")
    for shown in (page, late):
        expect(shown.locator("#run")).to_contain_text("window.pwned = 1")
        for fold in shown.locator("main details").all():
            fold.evaluate("fold => { fold.open = true }")
        expect_harmless(shown)
        assert shown.locator("#prompt-text").text_content() == ALL
        assert shown.locator("#result-raw").text_content() == ALL
    late.goto(f"{harm.runtime.url}/tasks/{task_id}/run")
    expect_harmless(late)


def test_hostile_names_errors_and_json_are_shown_as_text(harm: Harm, page: Page, database: FreshDatabase) -> None:
    failed = harm.begin()
    harm.end(*failed, status="error", output=None, error_message=ALL, code=SAMPLES[0][:64])
    listed = harm.begin(desired_format="json")
    harm.end(*listed, output='{"<img src=x onerror=alert(1)>": ["<script>alert(1)</script>", {"deep": null}], "n": 1}')
    page.goto(f"{harm.runtime.url}/tasks/{failed[0]}")
    expect(page.locator(".callout.bad")).to_contain_text("window.pwned = 1")
    expect_harmless(page)
    page.goto(f"{harm.runtime.url}/tasks/{listed[0]}")
    expect(page.locator(".json")).to_contain_text("<script>alert(1)</script>")
    expect_harmless(page)
    page.goto(f"{harm.runtime.url}/tasks")
    expect(page.get_by_role("row")).to_have_count(3)
    expect_harmless(page)
    page.goto(f"{harm.runtime.url}/tasks/new?from={failed[0]}")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(ALL)


def test_what_is_downloaded_is_text_whatever_it_is(harm: Harm) -> None:
    task_id, lease_id = harm.begin()
    harm.end(task_id, lease_id)
    (result,) = told(harm.runtime.get(f"/llm-tasks/{task_id}/results"))
    for path in (f"/tasks/{task_id}/prompt", f"/tasks/{task_id}/results/{result['id']}"):
        answer = harm.runtime.http.get(harm.runtime.url + path)
        assert answer.content.decode() == ALL
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_markdown_keeps_what_is_harmless() -> None:
    html = (
        render_markdown("# A\n\n**b** *c* `d`\n\n- e\n\n[f](https://example.org) ![g](https://example.org/h.png)") or ""
    )
    for part in ("<h3>A</h3>", "<strong>b</strong>", "<em>c</em>", "<code>d</code>", "<li>e</li>"):
        assert part in html
    links = re.findall(r'<a href="([^"]*)" rel="noopener noreferrer nofollow" target="_blank">([^<]*)</a>', html)
    assert links == [("https://example.org", "f"), ("https://example.org/h.png", "g")]


@pytest.mark.parametrize("text", ["x" * (LONGEST_CHARS + 1), "[" * 5000, "![" * 5000, "a*" * 5000])
def test_what_would_take_long_is_not_rendered(text: str) -> None:
    assert render_markdown(text) is None
