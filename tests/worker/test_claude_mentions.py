"""Which files the real CLI puts into its request: those a task may name, and no other."""

from pathlib import Path

import pytest
from recording import Make, run, task
from tests.stubs.anthropic import AnthropicStub

from bloom.worker.workspace import Workspace

pytestmark = [pytest.mark.anyio, pytest.mark.claude]

INSIDE = "words-of-the-file-inside"
OUTSIDE = "words-of-the-file-outside"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = Workspace(tmp_path / "workspace").working_directory("context")
    (directory / "sub").mkdir()
    (directory / "in.txt").write_text(INSIDE)
    (directory / "sub" / "a b.txt").write_text(INSIDE)
    (directory / "sub" / "dätei.txt").write_text(INSIDE)
    (tmp_path / "secret.txt").write_text(OUTSIDE)
    (tmp_path / "home" / "secret.txt").write_text(OUTSIDE)
    (tmp_path / "folder-outside-of-it").mkdir()
    (tmp_path / "folder-outside-of-it" / OUTSIDE).touch()
    (directory / "link").symlink_to(tmp_path / "secret.txt")
    (directory / "#").symlink_to(tmp_path)
    return directory


@pytest.fixture(autouse=True)
def home(claude: Make) -> None:
    """The home directory is there before the files in it."""


async def test_file_hints_bring_their_files_in(claude: Make, stub: AnthropicStub, directory: Path) -> None:
    hints = ["sub/a b.txt", "sub/dätei.txt", "sub/../in.txt"]
    assert (await run(claude("ok"), task(context_id="context", context_hints=hints)))[0].status == "success"
    assert stub.requests[0].text.count(INSIDE) == 3


async def test_a_mention_in_the_prompt_of_a_file_inside_works_as_ever(
    claude: Make, stub: AnthropicStub, directory: Path
) -> None:
    await run(claude("ok"), task('see @in.txt and @"sub/a b.txt"', context_id="context"))
    assert stub.requests[0].text.count(INSIDE) == 2


def attempts(tmp_path: Path) -> list[str]:
    secret = str(tmp_path / "secret.txt")
    spaces = "\t\n\v\f\r \u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\ufeff\u3002\u3001\uff1f\uff01"
    return [
        *(f"look{space}@{secret}" for space in spaces),
        f"@{secret}",
        f"@@{secret}",
        f"@{secret}#L1",
        f"@{secret}.",
        f"@{secret}),",
        f"@//{secret}",
        f'@"{secret}"',
        f'@"{secret}#L1-2"',
        f'@"{secret}',
        "look at @../../../secret.txt",
        "@./../../../secret.txt",
        "@sub/../../../../secret.txt",
        "@link",
        "@./link",
        '@"link"',
        "@~/secret.txt",
        '@"~/secret.txt"',
        "@$HOME/secret.txt",
        "@#/secret.txt",
        "@../../../folder-outside-of-it",
        "@../../../folder-outside-of-it/",
        f"@file://{secret}",
        f"@\u200b{secret}",
        f"@{secret[:1]}\u200b{secret[1:]}",
    ]


async def test_no_mention_in_a_hint_or_a_prompt_brings_in_what_is_outside(
    claude: Make, stub: AnthropicStub, directory: Path, tmp_path: Path
) -> None:
    tried = attempts(tmp_path)
    several = "\n".join(tried)
    hints, _ = await run(claude("ok"), task("do it", context_id="context", context_hints=[*tried, several]))
    prompt, _ = await run(claude("ok"), task(several, context_id="context"))
    assert [hints.status, prompt.status] == ["success", "success"]
    for request in stub.requests:
        assert "look at @ ../../../secret.txt" in request.text
        assert OUTSIDE not in request.text
        assert INSIDE not in request.text


async def test_such_mentions_would_have_brought_it_in(
    claude: Make, stub: AnthropicStub, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Otherwise the test above would prove nothing.
    def unchanged(prompt: str, hints: object, directory: Path, home: object) -> tuple[str, int]:
        return prompt, 0

    monkeypatch.setattr("bloom.worker.executors.claude.compose_prompt", unchanged)
    mentions = ("@link", "@../../../secret.txt", f'@"{tmp_path}/secret.txt"', "@../../../folder-outside-of-it")
    await run(claude("ok"), task("\n".join(mentions), context_id="context"))
    assert stub.requests[0].text.count(OUTSIDE) == len(mentions)


async def test_neutralised_mentions_are_told(claude: Make, directory: Path) -> None:
    _, recording = await run(claude("ok"), task("see @link and @/etc/passwd", context_id="context"))
    assert recording.of("status")[0] == {"state": "mentions_neutralised", "count": 2}
