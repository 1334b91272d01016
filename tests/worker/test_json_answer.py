"""What counts as a JSON answer."""

import pytest

from bloom.worker.executors.json_answer import json_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"a": 1}', '{"a": 1}'),
        (" [1, 2]\n", "[1, 2]"),
        ("null", "null"),
        ('"text"', '"text"'),
        ('```json\n{"a": 1}\n```', '{"a": 1}'),
        ('```\n{"a": 1}\n```', '{"a": 1}'),
        ('Here it is:\n```json\n{"a": 1}\n```\nAnything else?', '{"a": 1}'),
        ('```json\n{"code": "```js\\nx\\n```"}\n```', '{"code": "```js\\nx\\n```"}'),
        ("```JSON\r\n[1]\r\n```", "[1]"),
    ],
)
def test_json_alone_or_in_one_fence_is_the_answer(text: str, answer: str) -> None:
    assert json_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        '{"a": 1} and more',
        '{"a": NaN}',
        "Infinity",
        "```json\n{\n```",
        "```json\n1\n```\n```json\n2\n```",
        "```python\n1\n``` is it",
        "[" * 100_000,
    ],
)
def test_anything_else_is_none(text: str) -> None:
    assert json_answer(text) is None
