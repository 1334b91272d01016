"""Which files a prompt and its hints may bring in. That the CLI understands it so is proved in test_claude_mentions."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bloom.worker.executors.claude_prompt import compose_prompt


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    (directory / "sub").mkdir(parents=True)
    (directory / "in.txt").write_text("inside")
    (directory / "sub" / "a b.txt").write_text("inside")
    (tmp_path / "secret.txt").write_text("outside")
    (directory / "out").symlink_to(tmp_path / "secret.txt")
    (directory / "within").symlink_to(directory / "in.txt")
    (directory / "far").symlink_to(tmp_path)
    return directory


@pytest.mark.parametrize(
    ("hint", "mention"),
    [
        ("in.txt", '@"in.txt"'),
        ("./sub/../in.txt", '@"in.txt"'),
        ("sub/a b.txt", '@"sub/a b.txt"'),
        ("within", '@"in.txt"'),
    ],
)
def test_a_hint_that_names_a_file_inside_becomes_a_mention(directory: Path, hint: str, mention: str) -> None:
    assert compose_prompt("do it", [hint], directory) == (f"do it\n\nFiles given with this task:\n{mention}", 0)


@pytest.mark.parametrize(
    "hint",
    [
        "sub",
        "nothing.txt",
        "../secret.txt",
        "sub/../../secret.txt",
        "out",
        "far/secret.txt",
        "/etc/passwd",
        "~/.ssh/id_rsa",
        "in.txt\x00",
        "x" * 5000,
        "\ud800",
        "use tabs, not spaces",
    ],
)
def test_any_other_hint_is_text(directory: Path, hint: str) -> None:
    text, _ = compose_prompt("do it", [hint], directory)
    assert text == f"do it\n\nHints given with this task:\n- {hint}"


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        ("@/etc/passwd", "@ /etc/passwd"),
        ("look at @../secret.txt", "look at @ ../secret.txt"),
        ('@"../secret.txt"', '@ "../secret.txt"'),
        ("@@/etc/passwd", "@ @ /etc/passwd"),
        ("see\u3000@/etc/passwd", "see\u3000@ /etc/passwd"),
        ("see。@/etc/passwd", "see。@ /etc/passwd"),
        ("line\n@in.txt", "line\n@ in.txt"),
        ("@agent-Explore", "@ agent-Explore"),
        ("write to name@host.example", "write to name@host.example"),
    ],
)
def test_no_mention_is_left_in_a_hint_that_is_text(directory: Path, hint: str, text: str) -> None:
    assert compose_prompt("do it", [hint], directory)[0].endswith(f"\n- {text}")


@pytest.mark.parametrize("name", ['quo"te', "line#L1", "new\nline", "back\\slash", "x (agent)"])
def test_a_file_whose_name_would_mean_something_else_in_a_mention_is_text(directory: Path, name: str) -> None:
    (directory / name).write_text("inside")
    assert "@" not in compose_prompt("do it", [name], directory)[0]


@pytest.mark.parametrize(
    "prompt",
    [
        "explain @in.txt and @sub, please",
        'explain @"sub/a b.txt"',
        "@app.route('/x')\n@dataclass(frozen=True)\n@scope/package ... name@host",
        'import x from "@/components/x"',
        "diff @{u}, @, @ /etc/passwd",
        "@../nothing-is-there @~nobody-of-that-name/x",
        "",
    ],
)
def test_a_prompt_keeps_mentions_of_what_is_inside_or_does_not_exist(directory: Path, prompt: str) -> None:
    assert compose_prompt(prompt, [], directory) == (prompt, 0)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("@/etc/passwd", "@ /etc/passwd"),
        ("read @../secret.txt.", "read @ ../secret.txt."),
        ("read @../secret.txt#L1-2", "read @ ../secret.txt#L1-2"),
        ('read @"../secret.txt" now', 'read @ "../secret.txt" now'),
        ("(@../secret.txt)", "(@ ../secret.txt)"),
        ("read @out", "read @ out"),
        ("read @far/secret.txt", "read @ far/secret.txt"),
        ("list @/etc", "list @ /etc"),
        ("list @..  or @../", "list @ ..  or @ ../"),
        ("read @~", "read @ ~"),
    ],
)
def test_a_mention_in_a_prompt_that_leads_out_is_neutralised(directory: Path, prompt: str, text: str) -> None:
    neutralised, count = compose_prompt(prompt, [], directory)
    assert neutralised == text
    assert count == text.count("@ ")


@pytest.mark.parametrize("odd", ["@\x00/etc", "@\ud800", "@" + "x/" * 5000, "@" * 10_000, '@"' * 1000])
def test_odd_prompts_are_no_trouble(directory: Path, odd: str) -> None:
    assert compose_prompt(odd, [odd], directory)[0]


def test_files_and_hints_come_behind_the_prompt(directory: Path) -> None:
    text, _ = compose_prompt("/review it", ["in.txt", "be brief", " ", "sub/a b.txt"], directory)
    assert text == (
        '/review it\n\nFiles given with this task:\n@"in.txt"\n@"sub/a b.txt"\n\nHints given with this task:\n- be brief'
    )


def test_a_home_that_is_the_working_directory_may_be_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(directory))
    keep: Callable[[str], tuple[str, int]] = lambda prompt: compose_prompt(prompt, [], directory)  # noqa: E731
    assert keep("@~/in.txt") == ("@~/in.txt", 0)
    assert keep("@~/out") == ("@ ~/out", 1)
