"""Keys from their making to their end: in one runtime, in two, and while requests wait under them."""

import asyncio
import threading
from typing import Any

import httpx
import pytest
from key_holders import ADMIN_KEY, create_key, holder, shown
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Api, Replica, StartReplica, all_pages, at_once, in_background, refused, told

from bloom.base.roles import Role
from bloom.db.pool import Connection
from bloom.keys import ring, store
from bloom.keys.model import has_form_of_key, key_digest, make_key, starts_with
from bloom.keys.ring import NamedKeyRing
from bloom.web.auth import Principal


@pytest.mark.parametrize("role", Role)
def test_a_key_is_shown_once_and_stored_as_a_digest(keyed: Replica, database: FreshDatabase, role: Role) -> None:
    made = create_key(keyed, role)
    key = made.pop("key")
    assert key.startswith(f"bloom_{role}_") and has_form_of_key(key) and key.startswith(made["starts_with"])
    assert made.pop("asked_for") is True
    assert told(keyed.get("/keys")) == [made]
    assert database.value("select digest from bloom.keys") == key_digest(key)


def test_keys_are_long_random_and_known_by_their_beginning() -> None:
    keys = {make_key(Role.READER) for _ in range(100)}
    assert len(keys) == 100
    assert all(has_form_of_key(key) and len(key) == len("bloom_reader_") + 43 for key in keys)
    assert {starts_with(key) for key in keys} == {key[:17] for key in keys}


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"name": "k"}, "role"),
        ({"role": "reader"}, "name"),
        ({"name": "k", "role": "root"}, "role"),
        ({"name": "", "role": "reader"}, "name"),
        ({"name": "n" * 129, "role": "reader"}, "name"),
        ({"name": "a\nb", "role": "reader"}, "name"),
        ({"name": " k", "role": "reader"}, "name"),
        ({"name": "k", "role": "worker"}, "worker_name must say"),
        ({"name": "k", "role": "worker", "worker_name": ""}, "worker_name"),
        ({"name": "k", "role": "reader", "worker_name": "w"}, "worker_name is for"),
        ({"name": "k", "role": "reader", "expires_in_sec": 0}, "expires_in_sec"),
        ({"name": "k", "role": "reader", "expires_in_sec": 9, "expires_at": 4_000_000_000_000}, "not both"),
        ({"name": "k", "role": "reader", "expires_at": 1}, "Must lie ahead"),
    ],
)
def test_a_key_that_cannot_be_is_refused_and_not_made(quiet_keyed: Replica, body: dict[str, Any], problem: str) -> None:
    before = [told(quiet_keyed.get(path)) for path in ("/keys", "/audit")]
    answer = quiet_keyed.post("/keys", body)
    assert answer.status_code == 400 and problem in answer.text
    assert [told(quiet_keyed.get(path)) for path in ("/keys", "/audit")] == before


def test_a_name_is_never_used_again(keyed: Replica) -> None:
    first = create_key(keyed, Role.READER, "ci")
    told(keyed.delete(f"/keys/{first['id']}"))
    assert refused(keyed.post("/keys", {"name": "ci", "role": "admin"}), 409) == "key_name_taken"
    answers = at_once(10, lambda n: keyed.post("/keys", {"name": "new", "role": "reader"}))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9


def test_keys_are_listed_in_pages(keyed: Replica) -> None:
    names = [create_key(keyed, Role.READER, f"k{n}")["name"] for n in range(5)]
    listed, sizes = all_pages(keyed, "/keys", limit=2)
    assert [key["name"] for key in listed] == names[::-1]
    assert list(sizes) == [2, 2, 1]


def test_a_revoked_key_is_refused_at_once_and_revoking_again_changes_nothing(
    keyed: Replica, database: FreshDatabase
) -> None:
    made = create_key(keyed, Role.READER)
    with shown(keyed, made["key"]) as api:
        told(api.get("/stats"))
        first = told(keyed.delete(f"/keys/{made['id']}"))
        assert refused(api.get("/stats"), 401) == "unauthorized"
    assert first["state"] == "revoked" and first["revoked_at"] >= first["created_at"]
    assert told(keyed.delete(f"/keys/{made['id']}"))["revoked_at"] == first["revoked_at"]
    assert database.value("select count(*) from bloom.audit_log where action = 'key_revoked'") == 1


@pytest.mark.parametrize("key_id", ["nothing", "x" * 513, "a%00b"])
def test_there_is_no_revoking_of_a_key_that_is_not_there(quiet_keyed: Replica, key_id: str) -> None:
    answer = quiet_keyed.delete(f"/keys/{key_id}")
    assert refused(answer, 404) == "key_not_found"


def test_a_key_that_is_pasted_in_the_place_of_its_id_is_not_told_back(keyed: Replica) -> None:
    made = create_key(keyed, Role.READER)
    answer = keyed.delete(f"/keys/{made['key']}")
    assert refused(answer, 404) == "key_not_found" and made["key"] not in answer.text


@pytest.mark.parametrize("change", ["upper", "shorter", "longer", "another role", "utf-8"])
def test_a_key_that_is_almost_right_is_refused(quiet_keyed: Replica, change: str) -> None:
    key: str = create_key(quiet_keyed, Role.READER, change)["key"]
    changed = {
        "upper": key.upper(),
        "shorter": key[:-1],
        "longer": key + "A",
        "another role": key.replace("reader", "admin"),
        "utf-8": key + "ü",
    }[change]
    headers = {b"X-Runtime-API-Key": changed.encode()}
    assert quiet_keyed.http.get("/stats", headers=httpx.Headers(headers)).status_code == 401


def expire(database: FreshDatabase, key_id: str) -> None:
    """Let the key have ended a second ago, unseen by anybody."""
    ended = "update bloom.keys set expires_at = now() - interval '1 second' where id = %(id)s"
    assert database.edit(ended, id=key_id)


def test_an_expired_key_is_refused_and_listed_as_such(keyed: Replica, database: FreshDatabase) -> None:
    made = create_key(keyed, Role.READER, expires_in_sec=3600)
    assert made["expires_at"] - made["created_at"] == 3_600_000
    expire(database, made["id"])
    with shown(keyed, made["key"]) as api:
        assert refused(api.get("/stats"), 401) == "unauthorized"
    assert [key["state"] for key in told(keyed.get("/keys"))] == ["expired"]


def test_a_key_is_remembered_for_seconds_and_never_beyond_its_end(keyed: Replica, database: FreshDatabase) -> None:
    now = 1000.0
    services = keyed.services
    named = NamedKeyRing(services.database, services.hub, clock=lambda: now)
    lasting = create_key(keyed, Role.READER, "lasting")
    ending = create_key(keyed, Role.READER, "ending", expires_in_sec=3600)
    database.edit("update bloom.keys set expires_at = now() + interval '2 seconds' where name = 'ending'")

    def found(made: dict[str, Any]) -> Principal | None:
        return keyed.run(named.find(made["key"].encode()))

    assert found(lasting) == Principal("key:lasting", Role.READER)
    assert found(ending) is not None
    database.edit("update bloom.keys set revoked_at = now()")
    now += 1.9
    # Another process would not know of this yet: the news is what tells it, and the seconds are the fallback.
    assert found(lasting) is not None
    now += 0.2
    assert found(ending) is None and found(lasting) is not None
    now = 1000.0 + ring.REMEMBERED_SEC
    assert found(lasting) is None


def test_of_many_keys_the_newest_are_remembered(
    keyed: Replica, database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "MOST_REMEMBERED", 2)
    services = keyed.services
    named = NamedKeyRing(services.database, services.hub, clock=lambda: 1000.0)
    keys = [create_key(keyed, Role.READER, f"k{n}")["key"].encode() for n in range(4)]
    for key in keys:
        assert keyed.run(named.find(key)) is not None
    database.edit("update bloom.keys set revoked_at = now()")
    assert [keyed.run(named.find(key)) is not None for key in keys] == [False, False, True, True]


@pytest.fixture
def pair(start_replica: StartReplica, monkeypatch: pytest.MonkeyPatch) -> tuple[Replica, Replica]:
    """Two runtimes on one database that learn of revocations by news alone."""
    monkeypatch.setattr(ring, "REMEMBERED_SEC", 3600.0)
    first, second = (start_replica(RUNTIME_API_KEY=ADMIN_KEY) for _ in range(2))
    for replica in (first, second):
        replica.until_listening()
    return first, second


def test_a_revocation_takes_effect_in_every_runtime(pair: tuple[Replica, Replica]) -> None:
    first, second = pair
    made = create_key(first, Role.READER)
    with shown(second, made["key"]) as api:
        told(api.get("/stats"))
        told(first.delete(f"/keys/{made['id']}"))
        eventually(lambda: api.get("/stats").status_code == 401, what="the other runtime hears of the revocation")


def test_a_new_key_works_in_every_runtime_at_once(pair: tuple[Replica, Replica]) -> None:
    first, second = pair
    with shown(second, create_key(first, Role.READER)["key"]) as api:
        told(api.get("/stats"))


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_stream_ends_when_its_key_does_in_another_runtime_too(
    pair: tuple[Replica, Replica], database: FreshDatabase, end: str
) -> None:
    first, second = pair
    task = first.create()
    made = create_key(first, Role.READER)
    opened = threading.Event()
    with shown(second, made["key"]) as api:

        def follow() -> str:
            with api.http.stream("GET", f"/llm-tasks/{task['id']}/stream") as answer:
                assert answer.status_code == 200
                text = ""
                for part in answer.iter_text():
                    text += part
                    if "event: task" in text:
                        opened.set()
                return text

        with in_background(follow) as followed:
            assert opened.wait(5)
            if end == "revoked":
                told(first.delete(f"/keys/{made['id']}"))
            else:
                expire(database, made["id"])
                second.run(second.services.ring.refresh())
            assert "event: end" not in followed.result(5)
        assert refused(api.get("/stats"), 401) == "unauthorized"


def test_what_is_read_before_a_revocation_is_not_remembered_after_it(
    keyed: Replica, database: FreshDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = keyed.services.ring
    key = create_key(keyed, Role.READER)["key"].encode()
    read, go_on = asyncio.Event(), asyncio.Event()
    look_up = store.find_valid

    async def slow_look_up(connection: Connection, digests: Any, ids: Any, *, now: Any) -> Any:
        found = await look_up(connection, digests, ids, now=now)
        read.set()
        await go_on.wait()
        return found

    async def find_while_it_is_revoked() -> None:
        finding = asyncio.ensure_future(named.find(key))
        await read.wait()
        database.edit("update bloom.keys set revoked_at = now()")
        await named.refresh()
        go_on.set()
        assert await finding is not None

    monkeypatch.setattr(store, "find_valid", slow_look_up)
    keyed.run(find_while_it_is_revoked())
    assert keyed.run(named.find(key)) is None


def test_the_last_use_is_noted_beside_the_request_and_once_a_minute(keyed: Replica, database: FreshDatabase) -> None:
    named = keyed.services.ring
    with holder(keyed, Role.READER) as api:

        def use() -> None:
            told(api.get("/stats"))
            keyed.run(named.refresh())

        assert told(keyed.get("/keys"))[0]["last_used_at"] is None
        use()
        noted = told(keyed.get("/keys"))[0]["last_used_at"]
        assert noted is not None
        use()
        assert told(keyed.get("/keys"))[0]["last_used_at"] == noted
        database.edit("update bloom.keys set last_used_at = last_used_at - interval '2 minutes'")
        use()
        assert told(keyed.get("/keys"))[0]["last_used_at"] >= noted


def test_an_idempotency_key_belongs_to_the_key_that_used_it(keyed: Replica) -> None:
    body = {"context_id": "c", "agent_slug": "a", "prompt": "p", "idempotency_key": "once"}

    def create(api: Api) -> str:
        return told(api.post("/llm-tasks", body), 200, 201)["id"]

    with holder(keyed, Role.SUBMITTER, name="one") as one, holder(keyed, Role.SUBMITTER, name="two") as two:
        made = [create(api) for api in (one, two, keyed, one, two, keyed)]
    assert made[:3] == made[3:] and len(set(made)) == 3


def test_a_named_admin_makes_and_revokes_keys_even_its_own(keyed: Replica) -> None:
    made = create_key(keyed, Role.ADMIN, "boss")
    with shown(keyed, made["key"]) as boss:
        assert create_key(boss, Role.READER, "r")["created_by"] == "key:boss"
        assert told(boss.delete(f"/keys/{made['id']}"))["state"] == "revoked"
        assert refused(boss.get("/keys"), 401) == "unauthorized"


def test_without_a_key_of_the_environment_keys_can_be_made_but_are_not_asked_for(runtime: Replica) -> None:
    made = create_key(runtime, Role.READER)
    assert made["asked_for"] is False and made["created_by"] == "local"
    with shown(runtime, made["key"]) as api:
        told(api.get("/keys"))  # which a reader could not


def test_while_the_database_is_away_keys_are_unavailable_and_the_health_answers(keyed: Replica) -> None:
    with shown(keyed, create_key(keyed, Role.READER)["key"]) as api:
        keyed.run(keyed.services.database.close())
        assert told(api.get("/health"), 503)["status"] == "degraded"
        assert refused(api.get("/stats"), 503) == "database_unavailable"
