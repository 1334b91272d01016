"""What a child said, made fit for an error message."""

import pytest

from bloom.worker.executors.telling import MASK, TAIL_CHARS, mask, tail


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("key sk-ant-api03-AbC_d-9 is wrong", f"key {MASK} is wrong"),
        ("sk-proj-0123456789", MASK),
        ("Authorization: Bearer abc.def-123=", f"Authorization: Bearer {MASK}"),
        ("authorization: Basic dXNlcjpwYXNz", f"authorization: Basic {MASK}"),
        ("x-api-key: 0123456789", f"x-api-key: {MASK}"),
        ('{"api_key": "0123456789", "n": 1}', f'{{"api_key": "{MASK}", "n": 1}}'),
        ("ANTHROPIC_AUTH_TOKEN=0123456789 HOME=/x", f"ANTHROPIC_AUTH_TOKEN={MASK} HOME=/x"),
        ("password=hunter22&x=1", f"password={MASK}&x=1"),
        ("https://user:hunter22@host/path", f"https://{MASK}@host/path"),
        ("ghp_0123456789abcdef AKIA0123456789AB", f"{MASK} {MASK}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", MASK),
    ],
)
def test_what_looks_like_a_key_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 64000",
        "risk-averse task-force",
        "the token is missing",
        "http://127.0.0.1:8080/path",
        "session 6b2ec4c8-0ac8-4c3e-a9b0-5e6c2a9c9999",
        "claude-sonnet-4-5",
    ],
)
def test_other_text_is_kept(text: str) -> None:
    assert mask(text) == text


def test_known_secrets_are_masked_in_any_form() -> None:
    assert mask("it is (correct horse)", ["correct horse", "", "it"]) == f"it is ({MASK})"


def test_only_the_end_of_a_long_text_is_told_and_no_cut_bares_a_secret() -> None:
    told = tail("sk-ant-" + "A" * 3000 + "x" * (TAIL_CHARS - 100) + " the end \n")
    assert "AAAA" not in told
    assert told.endswith("the end")
    assert len(told) <= TAIL_CHARS
