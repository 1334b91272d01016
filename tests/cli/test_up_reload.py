"""`make dev`, which is `bloom up --reload`: what is edited is served."""

import shutil
from pathlib import Path

import httpx
from tests.real_postgres import eventually
from up_process import START_SEC, WAIT_SEC, Starter

import bloom

LANGUAGE = {"Accept-Language": "uk"}


def test_edited_code_templates_files_and_words_are_served_and_no_membridge_runs(up: Starter, tmp_path: Path) -> None:
    package = tmp_path / "code/bloom"
    shutil.copytree(Path(bloom.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    one = up("--reload", PYTHONPATH=str(package.parent))
    assert not any("membridge" in process.cmdline() for process in one.descendants())
    answer = httpx.get(f"{one.url}/api/membridge/projects", timeout=WAIT_SEC, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (502, "membridge_not_configured")

    def shows(path: str, text: str) -> bool:
        # Between two processes the socket listens on, so that a request waits for the next one; one under way may be cut.
        try:
            answer = httpx.get(f"{one.url}{path}", headers=LANGUAGE, timeout=START_SEC, trust_env=False)
        except httpx.TransportError:
            return False
        return text in answer.text

    pages = {
        package / "ui/templates/overview.html": ("<h1>", "<h1>An edited template: ", "/", "An edited template"),
        package / "ui/locales/uk/frame.po": ('msgstr "Огляд"', 'msgstr "Змінений огляд"', "/", "Змінений огляд"),
        package / "ui/static/pages.css": ("", "/* edited */", "/static/pages.css", "/* edited */"),
    }
    code = {package / "__init__.py": ("", '\n__version__ = "0.0.edited"\n', "/api/runtime/health", "0.0.edited")}
    for edits in (pages, code):
        for file, (old, new, _, _) in edits.items():
            before = file.read_text()
            assert old in before
            file.write_text(before.replace(old, new, 1) if old else before + new)
        for file, (_, _, path, text) in edits.items():
            eventually(lambda path=path, text=text: shows(path, text), what=file.name, within_sec=START_SEC)
    one.stop()
