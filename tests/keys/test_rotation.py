"""A key gets a new secret without a moment in which neither is taken."""

from typing import Any

import pytest
from key_holders import create_key, shown
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, in_background, refused, told

from bloom.base.roles import Role


def rotate(api: Replica, key_id: str, **body: Any) -> dict[str, Any]:
    return told(api.post(f"/keys/{key_id}/rotate", body), 201)


def is_taken(api: Replica, key: str) -> bool:
    with shown(api, key) as caller:
        status = caller.get("/stats").status_code
    assert status in (200, 401)
    return status == 200


def overlap_is_over(api: Replica, database: FreshDatabase) -> None:
    database.edit("update bloom.keys set previous_until = now()")
    api.run(api.services.ring.refresh())


def test_both_secrets_are_taken_until_the_overlap_is_over(keyed: Replica, database: FreshDatabase) -> None:
    made = create_key(keyed, Role.READER)
    new = rotate(keyed, made["id"], overlap_sec=600)
    assert (new["id"], new["name"]) == (made["id"], made["name"])
    assert new["key"].startswith(new["starts_with"]) and new["key"] != made["key"]
    assert new["previous_until"] - new["rotated_at"] == 600_000
    assert is_taken(keyed, made["key"]) and is_taken(keyed, new["key"])
    overlap_is_over(keyed, database)
    assert not is_taken(keyed, made["key"])
    assert is_taken(keyed, new["key"])
    entry = told(keyed.get("/audit", limit=1))[0]
    assert (entry["action"], entry["entity_id"], entry["actor"]) == ("key_rotated", made["id"], "admin")
    assert new["key"] not in str(entry)


def test_without_an_overlap_the_old_secret_ends_at_once_and_so_does_what_waits_under_it(keyed: Replica) -> None:
    made = create_key(keyed, Role.READER)
    task = keyed.create()
    with shown(keyed, made["key"]) as api, api.http.stream("GET", f"/llm-tasks/{task['id']}/stream") as answer:
        lines = answer.iter_lines()
        next(lines)
        with in_background(lambda: list(lines)) as rest:
            new = rotate(keyed, made["id"], overlap_sec=0)
            rest.result(5)
    assert not is_taken(keyed, made["key"])
    assert is_taken(keyed, new["key"])


def test_a_second_rotation_ends_the_first_secret(keyed: Replica) -> None:
    made = create_key(keyed, Role.READER)
    second = rotate(keyed, made["id"])
    third = rotate(keyed, made["id"])
    assert [is_taken(keyed, each["key"]) for each in (made, second, third)] == [False, True, True]


def test_the_new_secret_lives_as_long_as_the_old_one_was_to_live(keyed: Replica, database: FreshDatabase) -> None:
    made = create_key(keyed, Role.READER, expires_in_sec=3600)
    database.edit("update bloom.keys set created_at = now() - interval '59 min', expires_at = now() + interval '1 min'")
    new = rotate(keyed, made["id"], overlap_sec=86_400)
    assert abs(new["expires_at"] - new["rotated_at"] - 3_600_000) < 1000
    assert abs(new["previous_until"] - new["rotated_at"] - 60_000) < 1000
    shorter = rotate(keyed, made["id"], expires_in_sec=30, overlap_sec=86_400)
    assert shorter["expires_at"] - shorter["rotated_at"] == 30_000
    assert shorter["previous_until"] == shorter["expires_at"]


def test_revoking_ends_both_secrets(keyed: Replica) -> None:
    made = create_key(keyed, Role.READER)
    new = rotate(keyed, made["id"])
    told(keyed.delete(f"/keys/{made['id']}"))
    assert not is_taken(keyed, made["key"])
    assert not is_taken(keyed, new["key"])


@pytest.mark.parametrize("state", ["revoked", "expired", "join"])
def test_a_key_that_is_not_valid_and_a_join_token_are_not_rotated(
    keyed: Replica, database: FreshDatabase, state: str
) -> None:
    made = create_key(keyed, Role.JOIN if state == "join" else Role.READER)
    if state == "revoked":
        told(keyed.delete(f"/keys/{made['id']}"))
    if state == "expired":
        database.edit("update bloom.keys set expires_at = now()")
    assert refused(keyed.post(f"/keys/{made['id']}/rotate"), 409) == "key_not_active"
    assert refused(keyed.post("/keys/nothing/rotate"), 404) == "key_not_found"
    assert refused(keyed.post(f"/keys/{made['id']}/rotate", {"overlap_sec": -1}), 400) == "invalid"
