"""What the documents name is there: commands with their options, files, variables, links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token

from bloom.cli.config_catalog import OURS, all_variables
from bloom.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOOM: Any = typer.main.get_command(app)
"""The parser; its classes are typer's own matter."""

SHELL = frozenset({"sh", "bash", "console"})

FOREIGN = {
    "the Claude CLI": """ANTHROPIC_API_KEY ANTHROPIC_AUTH_TOKEN ANTHROPIC_BASE_URL CLAUDE_CODE_OAUTH_TOKEN CLAUDE_CONFIG_DIR
        CLAUDE_CODE_MAX_RETRIES API_TIMEOUT_MS USE_BUILTIN_RIPGREP""",
    "OpenTelemetry": "OTEL_EXPORTER_OTLP_HEADERS OTEL_TRACES_SAMPLER OTEL_SERVICE_NAME OTEL_RESOURCE_ATTRIBUTES",
    "prometheus-client": "PROMETHEUS_MULTIPROC_DIR",
    "OpenSSL": "SSL_CERT_FILE SSL_CERT_DIR",
    "terminals": "NO_COLOR FORCE_COLOR",
    "a worker's children": """BLOOM_LEASE_ID BLOOM_TASK_ID BLOOM_CONTEXT_ID BLOOM_AGENT_SLUG BLOOM_DESIRED_FORMAT
        BLOOM_REQUEST_ID""",
    "deploy/docker/env.example": "POSTGRES_PASSWORD STORE_ACCESS_KEY STORE_SECRET_KEY BLOOM_NETWORK",
    "psql and SQLite": "ON_ERROR_STOP SQLITE_TMPDIR",
    "make and the tests": """PYTEST_ARGS BENCH_ARGS SOAK_SECONDS SOAK_SEED HA_ONLY HA_ROUNDS BLOOM_TEST_PREVIOUS_RELEASE
        BLOOM_TEST_ATTACKS BLOOM_TEST_CHROMIUM BLOOM_TEST_ORPHAN_ROUNDS BLOOM_TEST_S3_URL
        BLOOM_SYNC_FAILPOINT BLOOM_SYNC_FAILPOINTS""",
}
"""Variables that somebody else reads, by who does."""

MADE = frozenset({"bench/results"})
"""What a command makes, and version control leaves out."""

_NAME = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
_ASSIGNED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_PATH = re.compile(r"(?<![\w./-])(?:deploy|docs|src|tests|requirements|bench)/[\w*./-]*[\w*/]|(?<![\w/])\.env\.example")


@dataclass(frozen=True)
class Page:
    """What one document names."""

    path: Path
    scripts: list[str]
    spans: list[str]
    links: list[str]
    anchors: set[str]

    @property
    def code(self) -> list[str]:
        return [*self.scripts, *self.spans]


def read(path: Path) -> Page:
    """The document at `path`."""
    tokens = MarkdownIt().enable("table").parse(path.read_text(encoding="utf-8"))
    inner = [child for token in tokens for child in token.children or ()]
    hrefs = [unquote(str(token.attrs["href"])) for token in inner if token.type == "link_open"]
    scripts = [token.content for token in tokens if token.type == "fence" and token.info in SHELL]
    spans = [token.content for token in inner if token.type == "code_inline"]
    return Page(path, scripts, spans, hrefs, set(anchors_of(tokens)))


def anchors_of(tokens: list[Token]) -> Iterator[str]:
    """The anchors of the headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    for before, token in pairwise(tokens):
        if before.type == "heading_open":
            title = "".join(child.content for child in token.children or ())
            anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            seen[anchor] = seen.get(anchor, -1) + 1
            yield f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor


def calls(script: str) -> Iterator[list[str]]:
    """The words of each call of `bloom` in a shell script, without its name."""
    for line in re.sub(r"<[a-z ]+>|\\\n", " ", script).splitlines():
        if "bloom" not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        lexer.wordchars += "…"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("();<>|&"):
                while words and (_ASSIGNED.fullmatch(words[0]) or words[0] in ("exec", "env")):
                    del words[0]
                if words and (words[0] == "bloom" or words[0].endswith("/bloom")):
                    yield words[1:]
                words = []
            else:
                words.append(word)


def parse(words: list[str]) -> None:
    """Let the command line's own parser read `words`; nothing runs. Raises click's UsageError."""
    command = BLOOM
    context: Any = None
    name: str | None = "bloom"
    while True:
        context = command.make_context(name, list(words), parent=context)
        words = [*getattr(context, "_protected_args", ()), *context.args]
        if not hasattr(command, "resolve_command") or not words:
            return
        name, command, words = command.resolve_command(context, words)


def named_in(span: str) -> list[str]:
    """The commands and options that a span such as `bloom task list --status STATUS` names, without what stands for a value."""
    words: list[str] = []
    command = BLOOM
    for word in re.sub(r"[\[\],]", " ", span).split()[1:]:
        commands = getattr(command, "commands", None)
        if word.startswith("--"):
            options = {"--help"} | {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
            assert word.partition("=")[0] in options, f"{word} of `{span}`"
        elif commands and word in commands:
            command = commands[word]
        elif commands and not words and re.fullmatch(r"[a-z-]+", word):
            raise AssertionError(f"{word} of `{span}`")
        words.append(word)
    return words


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return [read(path) for path in PAGES]


def test_every_command_line_is_one_that_bloom_takes(pages: list[Page]) -> None:
    wrong: list[str] = []
    count = 0
    for page in pages:
        for script in page.scripts:
            for words in calls(script):
                count += 1
                try:
                    parse(words)
                except Exception as error:  # noqa: BLE001 - each is told
                    wrong.append(f"{page.path.name}: bloom {shlex.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)
    assert count > 50


def test_every_command_that_a_sentence_names_has_these_options(pages: list[Page]) -> None:
    wrong: list[str] = []
    for page in pages:
        for span in page.spans:
            if re.match(r"bloom [a-z-]", span):
                try:
                    named_in(span)
                except AssertionError as error:
                    wrong.append(f"{page.path.name}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_file_of_this_repository_that_is_named_is_there(pages: list[Page]) -> None:
    wrong = {
        f"{page.path.name}: {path}"
        for page in pages
        for text in page.code
        for path in _PATH.findall(text)
        if path.rstrip("/") not in MADE and not list(ROOT.glob(path.rstrip("/")))
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_every_variable_is_a_setting_or_known_to_be_somebody_elses(pages: list[Page]) -> None:
    known = all_variables() | {name for names in FOREIGN.values() for name in names.split()}
    wrong: set[str] = set()
    for page in pages:
        named = {span.partition("=")[0] for span in page.spans if _NAME.fullmatch(span.partition("=")[0])}
        for text in page.code:
            named |= set(re.findall(rf"\b({_NAME.pattern})=", text))
            named |= {name for name in _NAME.findall(text) if name.startswith(OURS)}
        wrong |= {f"{page.path.name}: {name}" for name in named - known}
    assert not wrong, "\n".join(sorted(wrong))


def test_every_link_leads_somewhere(pages: list[Page]) -> None:
    anchors = {page.path.resolve(): page.anchors for page in pages}
    wrong: list[str] = []
    for page in pages:
        for href in page.links:
            if re.match(r"[a-z]+:", href):
                continue
            file, _, anchor = href.partition("#")
            target = (page.path.parent / file).resolve() if file else page.path.resolve()
            if not target.exists() or (anchor and anchor not in anchors.get(target, set())):
                wrong.append(f"{page.path.relative_to(ROOT)}: {href}")
    assert not wrong, "\n".join(wrong)


def test_every_page_is_in_the_index_and_every_ukrainian_page_has_the_parts_of_its_english_one(
    pages: list[Page],
) -> None:
    index = read(ROOT / "docs/README.md")
    linked = {(ROOT / "docs" / href.partition("#")[0]).resolve() for href in index.links}
    missing = [
        str(path.relative_to(ROOT)) for path in PAGES if path.parent != ROOT and path not in {index.path, *linked}
    ]
    assert not missing
    english, ukrainian = (read(ROOT / "docs" / name) for name in ("deployment.md", "uk/deployment.md"))
    assert [list(calls(script)) for script in english.scripts] == [list(calls(script)) for script in ukrainian.scripts]
    assert len(english.anchors) == len(ukrainian.anchors)
