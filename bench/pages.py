"""(i) What it costs that 200 people have a live page open while 50 tasks a second run."""

import shutil
import statistics
from functools import partial

from playwright.sync_api import sync_playwright

from bench.figures import Figure, Section, Target
from bench.load.pages import FOLLOWED, TASKS_PER_SEC
from bench.plan import Plan
from bench.runs import load
from bench.stack import Runtime, Stack

PAGES = 200
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pages(plan: Plan, stack: Stack) -> Section:
    """The same tasks without pages and with them, in turn; the difference is the pages'."""
    stack.empty()
    with stack.runtime() as runtime, stack.connect() as asking:
        probes = {"completed": lambda: stack.number(asking, _COMPLETED)}
        run = partial(load, stack, runtime, "pages", seconds=plan.seconds, warm_up_sec=5, probes=probes)
        alone, looked_at = run(clients=1), run(clients=1 + PAGES)
        opened_ms, kib = _first_page(runtime)
    before, after = looked_at.probed["completed"]

    def busy(who: str) -> float:
        return 100 * (looked_at.cores[who] - alone.cores[who])

    return Section(
        "pages",
        f"(i) {PAGES} live pages ({', '.join(FOLLOWED)}) while {TASKS_PER_SEC} tasks a second run",
        (
            Figure(
                "CPU of server and PostgreSQL for the pages, of one core",
                busy("server") + busy("PostgreSQL"),
                "%",
                target=Target(20, at_most=True),
                cores=looked_at.cores,
            ),
            Figure("the server's part of it", busy("server"), "%"),
            Figure("tasks completed meanwhile", (after - before) / looked_at.seconds, "per s"),
            Figure("regions that a page gets", looked_at.per_sec / PAGES, "per s"),
            Figure("first page until it can be used (median of 5)", opened_ms, "ms", target=Target(300, at_most=True)),
            Figure("first page with all it loads, as sent", kib, "KiB", target=Target(150, at_most=True)),
            Figure(
                "most memory of one server process", looked_at.server_mib or 0, "MiB", target=Target(200, at_most=True)
            ),
        ),
    )


def _first_page(runtime: Runtime) -> tuple[float, float]:
    """Milliseconds until the page can be used and its scripts run, and KiB over the wire, in a browser that is new to it."""
    took: list[float] = []
    sent = 0.0
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        for _ in range(5):
            context = browser.new_context(extra_http_headers={"X-Runtime-API-Key": runtime.key})
            page = context.new_page()
            page.goto(runtime.url, wait_until="load")
            timing: dict[str, float] = page.evaluate(_TIMING)
            took.append(timing["ms"])
            sent = timing["bytes"] / 1024
            context.close()
        browser.close()
    return statistics.median(took), sent


_TIMING = """() => {
    const page = performance.getEntriesByType("navigation")[0];
    const files = performance.getEntriesByType("resource").filter((file) => file.initiatorType !== "other");
    return {ms: page.domContentLoadedEventEnd, bytes: files.reduce((sum, file) => sum + file.transferSize, page.transferSize)};
}"""
_COMPLETED = "select count(*) from bloom.tasks where status = 'completed'"
