"""A real browser on the pages of a real server."""

from collections.abc import Generator
from typing import Any

import pytest
from browsers import ARGUMENTS, CHROMIUM, PATIENCE_MS, OpenPage, Watched, missing
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    """Chromium. Not for longer than a module: while it is there, no test of the process can run an event loop of its own."""
    if CHROMIUM is None:
        missing("The pages are tested in Chromium. Debian: apt install chromium, or name it in BLOOM_TEST_CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Generator[OpenPage]:
    """Pages that are watched: at the end none may have asked another host, opened a dialog or complained."""
    contexts: list[BrowserContext] = []
    watched: list[Watched] = []

    def open_one(*, java_script: bool = True, **options: Any) -> Page:
        settings: dict[str, Any] = {"locale": "en", "java_script_enabled": java_script, **options}
        context = browser.new_context(**settings)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        watched.append(Watched(context.new_page()))
        return watched[-1].page

    yield open_one
    try:
        for page in watched:
            page.check()
    finally:
        for context in contexts:
            context.close()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    """One watched page."""
    return open_page()
