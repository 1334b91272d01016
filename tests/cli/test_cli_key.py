"""`bloom key create`, `list`, `revoke`."""

import json
import time
from typing import Any

import pytest
from fake_runtime import CREATED_MS, Answer, Bloom, FakeRuntime

from bloom.base.roles import Role
from bloom.keys.model import make_key, starts_with

FAR_MS = int((time.time() + 100_000) * 1000)


def key(name: str = "ci", role: str = "submitter", **changed: Any) -> dict[str, Any]:
    """A KeyOut."""
    return {
        "id": f"id-of-{name}",
        "name": name,
        "role": role,
        "worker_name": None,
        "starts_with": starts_with(make_key(Role(role))),
        "state": "active",
        "created_at": CREATED_MS,
        "created_by": "admin",
        "expires_at": None,
        "last_used_at": None,
        "used_up_at": None,
        "revoked_at": None,
        **changed,
    }


def made(name: str = "ci", role: str = "submitter", **changed: Any) -> dict[str, Any]:
    """A CreatedKey."""
    return {**key(name, role), "key": make_key(Role(role)), "asked_for": True, **changed}


def test_create_writes_the_key_alone_to_stdout(runtime: FakeRuntime, bloom: Bloom) -> None:
    answer = made()
    runtime.on("POST", "/keys", Answer(answer, 201))
    done = bloom("key", "create", "ci", "--role", "submitter", "--expires", "30d")
    assert (done.exit_code, done.stdout) == (0, answer["key"] + "\n")
    assert "ci (submitter)" in done.stderr and "bloom key revoke ci" in done.stderr
    assert answer["key"] not in done.stderr
    assert runtime.seen[0].body == {"name": "ci", "role": "submitter", "expires_in_sec": 30 * 86_400}


def test_a_key_without_a_name_gets_one_that_says_what_it_is_for(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("POST", "/keys", Answer(made("pi4-1", "worker", worker_name="pi4"), 201))
    assert bloom("key", "create", "--role", "worker", "--worker", "pi4").exit_code == 0
    assert bloom("key", "create", "--role", "reader", "--json").exit_code == 0
    first, second = (seen.body for seen in runtime.requests("POST", "/keys"))
    assert first.pop("name").startswith("pi4-") and second.pop("name").startswith("reader-")
    assert first == {"role": "worker", "worker_name": "pi4"} and second == {"role": "reader"}


def test_join_prints_the_command_for_the_new_machine(runtime: FakeRuntime, bloom: Bloom) -> None:
    token = made("t", "join", expires_at=FAR_MS, worker_name="pi4")
    runtime.on("POST", "/keys", Answer(token, 201))
    done = bloom("key", "create", "--join", "--worker", "pi4")
    assert done.stdout == f"bloom worker join {runtime.url} {token['key']}\n"
    assert "as the worker pi4" in done.stderr and "names this machine only" in done.stderr
    elsewhere = bloom("key", "create", "--join", "--url", "https://vps.example/bloom/")
    assert elsewhere.stdout == f"bloom worker join https://vps.example/bloom {token['key']}\n"
    assert "this machine only" not in elsewhere.stderr
    assert runtime.seen[0].body["worker_name"] == "pi4"


def test_create_says_plainly_when_keys_are_not_asked_for(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("POST", "/keys", Answer(made(asked_for=False), 201))
    assert "RUNTIME_API_KEY" in bloom("key", "create", "--role", "reader").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--role", "reader", "--join"),
        ("--role", "worker"),
        ("--role", "join"),
        ("--role", "reader", "--worker", "pi4"),
        ("--role", "reader", "--url", "http://h"),
        ("--role", "reader", "--expires", "tomorrow"),
        ("--role", "reader", "--expires", "0d"),
        ("--join", "--url", "nonsense"),
    ],
)
def test_what_does_not_fit_together_is_told_before_anything_is_asked(
    runtime: FakeRuntime, bloom: Bloom, arguments: tuple[str, ...]
) -> None:
    assert bloom("key", "create", *arguments).exit_code == 2
    assert runtime.seen == []


def test_the_list_shows_valid_keys_page_by_page_and_all_on_demand(runtime: FakeRuntime, bloom: Bloom) -> None:
    ended = key("old", "worker", worker_name="pi4", state="revoked", revoked_at=CREATED_MS)
    following = {"Link": '<?cursor=c1>; rel="next"'}
    pages = (
        Answer([key("b\x1b[2J", expires_at=FAR_MS), ended], headers=following),
        Answer([key("a", last_used_at=CREATED_MS)]),
    )
    runtime.on("GET", "/keys", *pages, *pages)
    lines = bloom("key", "list").stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:]] == [
        ["b", "submitter", "-", "active"],
        ["a", "submitter", "-", "active"],
    ]
    assert "in 1 d" in lines[1] and "never" in lines[2] and "bloom_submitter_" in lines[2]
    assert len(json.loads(bloom("key", "list", "--all", "--json").stdout)) == 3
    assert [seen.query.get("cursor") for seen in runtime.seen] == [None, "c1"] * 2


def test_an_empty_list_says_so(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/keys", Answer([key(state="expired")]))
    assert bloom("key", "list").stdout == "no valid keys; --all shows the others\n"
    assert "expired" in bloom("key", "list", "--all").stdout
    assert json.loads(bloom("key", "list", "--json").stdout) == []
    assert len(json.loads(bloom("key", "list", "--all", "--json").stdout)) == 1


def test_revoke_takes_names_and_ids_and_goes_on_after_one_that_is_not_there(runtime: FakeRuntime, bloom: Bloom) -> None:
    runtime.on("GET", "/keys", Answer([key("a"), key("b")]))
    runtime.on("DELETE", "/keys/id-of-a", Answer(key("a", state="revoked")))
    runtime.on("DELETE", "/keys/id-of-b", Answer(key("b", state="revoked")))
    secret = make_key(Role.READER)
    done = bloom("key", "revoke", "a", secret, "id-of-b")
    assert (done.exit_code, done.stdout) == (6, "a is revoked\nb is revoked\n")
    assert "neither the name nor the id" in done.stderr and secret not in done.stderr
    assert not [seen for seen in runtime.seen if secret in seen.path]
    as_json = json.loads(bloom("key", "revoke", "a", "missing", "--json").stdout)
    assert as_json[0]["state"] == "revoked" and as_json[1]["code"] == "not_found"


def test_a_refusal_is_one_line_and_its_exit_code(runtime: FakeRuntime, bloom: Bloom) -> None:
    refusal = Answer({"error": "This needs a key with the role admin", "code": "forbidden"}, 403)
    runtime.on("POST", "/keys", refusal)
    runtime.on("GET", "/keys", refusal)
    for arguments in (("create", "--role", "reader"), ("list",), ("revoke", "a")):
        done = bloom("key", *arguments)
        assert (done.exit_code, done.stdout) == (5, "") and "role admin" in done.stderr


def test_rotate_writes_the_new_secret_alone_to_stdout_and_says_how_long_the_old_one_lasts(
    runtime: FakeRuntime, bloom: Bloom
) -> None:
    runtime.on("GET", "/keys", Answer([key()]), Answer([key()]))
    answer = made(previous_until=FAR_MS)
    runtime.on("POST", "/keys/id-of-ci/rotate", Answer(answer, 201))
    done = bloom("key", "rotate", "ci", "--overlap", "7d")
    assert (done.exit_code, done.stdout) == (0, answer["key"] + "\n")
    assert "the old one is taken for 1 d" in done.stderr and answer["key"] not in done.stderr
    assert runtime.seen[-1].body == {"overlap_sec": 7 * 86_400}
    assert bloom("key", "rotate", "nobody").exit_code == 6
    assert "--overlap" in bloom("key", "rotate", "ci", "--overlap", "soon").stderr
