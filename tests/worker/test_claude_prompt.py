"""Which files a prompt and its hints may bring in. That the CLI understands it so is proved in test_claude_mentions."""

from pathlib import Path

import pytest

from bloom.worker.executors.claude_prompt import compose_prompt

HOME = None


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
    assert compose_prompt("do it", [hint], directory, HOME) == (f"do it\n\nFiles given with this task:\n{mention}", 0)


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
    text, _ = compose_prompt("do it", [hint], directory, HOME)
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
    assert compose_prompt("do it", [hint], directory, HOME)[0].endswith(f"\n- {text}")


@pytest.mark.parametrize("name", ['quo"te', "line#L1", "new\nline", "back\\slash", "x (agent)"])
def test_a_file_whose_name_would_mean_something_else_in_a_mention_is_text(directory: Path, name: str) -> None:
    (directory / name).write_text("inside")
    assert "@" not in compose_prompt("do it", [name], directory, HOME)[0]


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
    assert compose_prompt(prompt, [], directory, HOME) == (prompt, 0)


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
        ("@@/etc/passwd", "@@ /etc/passwd"),
        ("@@@/etc/passwd", "@@@ /etc/passwd"),
        ('@"unclosed @/etc/passwd "', '@"unclosed @ /etc/passwd "'),
        ('@"in.txt @"/etc/passwd"', '@"in.txt @ "/etc/passwd"'),
    ],
)
def test_a_mention_in_a_prompt_that_leads_out_is_neutralised(directory: Path, prompt: str, text: str) -> None:
    neutralised, count = compose_prompt(prompt, [], directory, HOME)
    assert neutralised == text
    assert count >= 1


def test_what_is_too_long_or_one_too_many_is_neutralised_unseen(directory: Path) -> None:
    long = "@" + "./" * 600 + "in.txt"
    assert compose_prompt(long, [], directory, HOME) == ("@ " + long[1:], 1)
    many = " ".join(f"@name{number}" for number in range(10_001))
    assert compose_prompt(f"{many} {many}", [], directory, HOME)[1] == 2


@pytest.mark.parametrize("odd", ["@\x00/etc", "@\ud800", "@" + "x/" * 5000, "@" * 10_000, '@"' * 1000])
def test_odd_prompts_are_no_trouble(directory: Path, odd: str) -> None:
    assert compose_prompt(odd, [odd], directory, HOME)[0]


def test_files_and_hints_come_behind_the_prompt(directory: Path) -> None:
    text, _ = compose_prompt("/review it", ["in.txt", "be brief", " ", "sub/a b.txt"], directory, HOME)
    assert text == (
        '/review it\n\nFiles given with this task:\n@"in.txt"\n@"sub/a b.txt"\n\nHints given with this task:\n- be brief'
    )


def test_the_home_is_that_of_the_child(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "in.txt").touch()
    assert compose_prompt("@~/in.txt", [], directory, str(tmp_path / "home")) == ("@ ~/in.txt", 1)
    assert compose_prompt("@~/in.txt", [], directory, str(directory)) == ("@~/in.txt", 0)
    assert compose_prompt("@~/out", [], directory, str(directory)) == ("@ ~/out", 1)
