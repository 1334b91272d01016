"""What tests in a real browser need: Chromium by Playwright, and axe-core."""

import os
import shutil
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import pytest
from playwright.sync_api import Dialog, Page, expect

CHROMIUM = os.environ.get("BLOOM_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parents[2] / ".build/pages/node_modules/axe-core/axe.min.js"
PATIENCE_MS = 30_000
"""A run of a task starts several processes on what may be a busy machine."""

expect.set_options(timeout=PATIENCE_MS)

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_OF_A_SERVER_AWAY = ("Failed to load resource", "net::ERR", "htmx:sseError", "[object Event]")
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class Watched:
    """A page of which is known what it should never do: ask another host, open a dialog, break its scripts or its CSP."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.strangers: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self._note_request(request.url))
        page.on("dialog", self._note_dialog)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._note_console(message.type, message.text))

    def _note_request(self, url: str) -> None:
        if not url.startswith(("http://127.0.0.1:", "blob:")):
            self.strangers.append(url)

    def _note_dialog(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_console(self, kind: str, text: str) -> None:
        # A server that is away, or a form that is refused, is told in the console too.
        if kind == "error" and not any(words in text for words in _OF_A_SERVER_AWAY):
            self.complaints.append(text)

    def check(self) -> None:
        """Fails where the page did one of these."""
        assert not self.strangers, self.strangers
        assert not self.complaints, self.complaints


class OpenPage(Protocol):
    """Opens a page in a context of its own: `open_page(java_script=False, color_scheme="dark", locale="uk")`."""

    def __call__(self, *, java_script: bool = True, **options: Any) -> Page: ...


def accessibility_problems(page: Page) -> list[str]:
    """What axe-core finds wrong with the page as it is, in light and in dark."""
    if not AXE.is_file():
        missing("axe-core is missing: make test brings it (.build/pages), with npm. Debian: apt install npm")
    # By the debugger, which the page's policy does not concern.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[str] = []
    # What is not a colour is the same in the dark.
    looks: tuple[tuple[Literal["light", "dark"], list[str]], ...] = (("light", _RULES), ("dark", ["color-contrast"]))
    for scheme, rules in looks:
        page.emulate_media(color_scheme=scheme)
        answer: Any = page.evaluate("rules => axe.run(document, {runOnly: rules})", rules)
        for problem in answer["violations"]:
            found += [f"{scheme} {problem['id']}: {node['html'][:200]}" for node in problem["nodes"]]
    return found


def missing(words: str) -> NoReturn:
    """CI has all that is needed; elsewhere the rest of the tests go on without."""
    if os.environ.get("CI") == "true":
        pytest.fail(words)
    pytest.skip(words)
