"""Join tokens: what they are exchanged for, and that they are exchanged once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from key_holders import ADMIN_KEY, OTHER, OWN, create_key, shown
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Api, Replica, StartReplica, at_once, refused, told

from bloom.base.roles import Role


def token_of(keyed: Replica, name: str = "token", **fields: Any) -> str:
    """A new join token."""
    return create_key(keyed, Role.JOIN, name, **fields)["key"]


def join(api: Api, token: str, **body: Any) -> httpx.Response:
    """The answer to one who joins with `token`."""
    return api.post("/keys/join", body, **{"X-Runtime-API-Key": token})


def test_a_token_becomes_the_key_of_its_worker(keyed: Replica) -> None:
    made = told(join(keyed, token_of(keyed, worker_name=OWN), hostname="some-host"), 201)
    assert (made["role"], made["worker_name"], made["created_by"]) == ("worker", OWN, "key:token")
    with shown(keyed, made["key"]) as worker:
        assert worker.register(OWN)["id"] == OWN
        assert refused(worker.post("/workers", {"name": "some-host"}), 403) == "forbidden"
    states = {key["name"]: key["state"] for key in told(keyed.get("/keys"))}
    assert states == {"token": "used_up", made["name"]: "active"}


@pytest.mark.parametrize(
    ("body", "name"),
    [({"name": "pi"}, "pi"), ({"hostname": "pi-host"}, "pi-host"), ({"name": "pi", "hostname": "h"}, "pi")],
)
def test_a_token_that_leaves_the_name_open_lets_the_machine_choose(
    keyed: Replica, body: dict[str, str], name: str
) -> None:
    assert told(join(keyed, token_of(keyed), **body), 201)["worker_name"] == name


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("replicas", [1, 2])
def test_of_twenty_machines_with_one_token_one_joins(
    start_replica: StartReplica, database: FreshDatabase, replicas: int, bound: bool
) -> None:
    fronts = [start_replica(RUNTIME_API_KEY=ADMIN_KEY) for _ in range(replicas)]
    token = token_of(fronts[0], **({"worker_name": OWN} if bound else {}))
    answers = at_once(20, lambda n: join(fronts[n % replicas], token, hostname=f"host-{n}"))
    assert sorted(answer.status_code for answer in answers) == [201] + [401] * 19
    assert database.value("select count(*) from bloom.keys where role = 'worker'") == 1
    assert database.value("select count(*) from bloom.audit_log where action = 'key_created'") == 2


def test_of_two_machines_that_ask_for_one_name_at_the_same_moment_one_gets_it(
    keyed: Replica, database: FreshDatabase
) -> None:
    tokens = [token_of(keyed, f"token {n}") for n in range(2)]
    with ThreadPoolExecutor(2) as pool:
        with database.audit_closed():  # whoever is first has taken the name and cannot commit
            joining = [pool.submit(join, keyed, token, name="pi") for token in tokens]
            database.wait_until_blocked(2)
        answers = [one.result(10) for one in joining]
    assert sorted(answer.status_code for answer in answers) == [201, 409]


def test_of_twenty_machines_of_one_name_with_open_tokens_one_gets_the_name(
    keyed: Replica, database: FreshDatabase
) -> None:
    tokens = [token_of(keyed, f"token {n}") for n in range(20)]
    answers = at_once(20, lambda n: join(keyed, tokens[n], hostname="raspberrypi"))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    assert {refused(answer, 409) for answer in answers if answer.status_code == 409} == {"worker_name_taken"}
    # Who was refused may still use the token, under another name.
    assert database.value("select count(*) from bloom.keys where used_up_at is not null") == 1


def test_an_open_token_never_takes_a_name_that_a_worker_has_or_had(keyed: Replica) -> None:
    keyed.register(OTHER)
    told(keyed.delete(f"/keys/{create_key(keyed, Role.WORKER, 'own', worker_name=OWN)['id']}"))
    keyed.register("removed")
    keyed.leased("removed")
    told(keyed.delete("/workers/removed"))
    token = token_of(keyed)
    for name in (OTHER, OWN, "removed"):
        assert refused(join(keyed, token, name=name), 409) == "worker_name_taken"
    told(join(keyed, token, name="new"), 201)


def test_a_token_for_a_worker_that_is_there_gives_it_one_more_key(keyed: Replica) -> None:
    keyed.register(OWN)
    first, second = (told(join(keyed, token_of(keyed, f"t{n}", worker_name=OWN)), 201) for n in range(2))
    assert first["name"] != second["name"]
    for made in (first, second):
        with shown(keyed, made["key"]) as worker:
            told(worker.get(f"/workers/{OWN}"))


def test_a_token_for_one_worker_is_not_spent_on_another(keyed: Replica) -> None:
    token = token_of(keyed, worker_name=OWN)
    assert refused(join(keyed, token, name=OTHER), 409) == "join_token_of_another_worker"
    told(join(keyed, token, name=OWN), 201)


def test_a_request_that_is_not_valid_leaves_the_token_as_it_is(keyed: Replica) -> None:
    token = token_of(keyed)
    for body in ({}, {"name": ""}, {"name": "a\nb"}, {"name": 7}, {"hostname": "n" * 129}):
        assert refused(join(keyed, token, **body), 400) == "invalid"
    told(join(keyed, token, name=OWN), 201)


def test_a_token_ends_after_an_hour_unless_it_was_made_otherwise(keyed: Replica, database: FreshDatabase) -> None:
    usual = create_key(keyed, Role.JOIN, "usual")
    longer = create_key(keyed, Role.JOIN, "longer", expires_in_sec=7200)
    assert [key["expires_at"] - key["created_at"] for key in (usual, longer)] == [3_600_000, 7_200_000]
    database.edit("update bloom.keys set expires_at = now() - interval '1 second' where name = 'usual'")
    assert refused(join(keyed, usual["key"], name=OWN), 401) == "unauthorized"


def test_a_token_that_was_revoked_joins_nobody(keyed: Replica) -> None:
    made = create_key(keyed, Role.JOIN)
    told(keyed.delete(f"/keys/{made['id']}"))
    assert refused(join(keyed, made["key"], name=OWN), 401) == "unauthorized"


def test_a_token_that_is_remembered_as_valid_is_used_up_all_the_same(
    start_replica: StartReplica, database: FreshDatabase
) -> None:
    first, second = (start_replica(RUNTIME_API_KEY=ADMIN_KEY) for _ in range(2))
    token = token_of(first)
    assert join(second, token).status_code == 400  # the second runtime has looked it up now
    told(join(first, token, name=OWN), 201)
    assert refused(join(second, token, name=OTHER), 401) in ("unauthorized", "join_token_invalid")
    assert database.value("select count(*) from bloom.keys where role = 'worker'") == 1


def test_other_keys_are_no_join_tokens(keyed: Replica) -> None:
    assert refused(keyed.post("/keys/join", {"name": OWN}), 403) == "join_token_needed"
    for role in (Role.ADMIN, Role.WORKER, Role.READER, Role.SUBMITTER):
        answer = join(keyed, create_key(keyed, role)["key"], name="new")
        assert refused(answer, 403) == ("join_token_needed" if role is Role.ADMIN else "forbidden")


def test_in_development_mode_a_machine_joins_too_and_learns_that_keys_are_not_asked_for(runtime: Replica) -> None:
    token = token_of(runtime, worker_name=OWN)
    made = told(join(runtime, token), 201)
    assert made["worker_name"] == OWN and made["asked_for"] is False
    assert refused(join(runtime, token), 401) == "join_token_invalid"
    assert refused(runtime.post("/keys/join", {"name": OWN}), 403) == "join_token_needed"
