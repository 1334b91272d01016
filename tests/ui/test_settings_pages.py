"""The page of settings: Membridge, the state of the installation, keys."""

import re
from collections.abc import Generator

import pytest
from tests.real_membridge import KEY, Membridge
from tests.real_postgres import FreshDatabase, PostgresServer
from tests.real_runtime import Replica, StartReplica, told
from visitor import ADMIN_KEY, Visitor, signed_in, words_of

from bloom.base.roles import Role
from bloom.db.migrate import HEAD

SECRET_KEY = "the-admin-key-of-membridge"


@pytest.fixture(scope="module")
def keyed(postgres_server: PostgresServer) -> Generator[Replica]:
    with postgres_server.database() as database, Replica(database.url, RUNTIME_API_KEY=ADMIN_KEY) as replica:
        replica.until_listening()
        yield replica


@pytest.fixture
def admin(keyed: Replica) -> Generator[Visitor]:
    with signed_in(keyed) as visitor:
        yield visitor


def connect(visitor: Visitor, url: str, key: str = "") -> tuple[int, str]:
    answer = visitor.post("/settings/membridge", on="/settings", membridge_url=url, membridge_key=key)
    return answer.status_code, answer.text


def test_membridge_is_connected_tested_and_its_key_kept(database: FreshDatabase, admin: Visitor) -> None:
    with Membridge(database.url) as membridge:
        assert connect(admin, membridge.url, KEY)[0] == 303
        page = admin.page("/settings")
        assert KEY not in page and f'value="{membridge.url}"' in page and "a ke********dmin" in page
        assert connect(admin, membridge.url)[0] == 303  # an empty key keeps it
        tested = admin.post("/settings/membridge/test", on="/settings")
        assert tested.status_code == 200 and KEY not in tested.text
        assert "It works: Membridge answers and takes the key." in words_of(tested.text)
        assert connect(admin, membridge.url, "another key")[0] == 303
        failed = words_of(admin.post("/settings/membridge/test", on="/settings").text)
        assert "It does not work: Membridge refuses the key of this runtime." in failed


@pytest.mark.parametrize(
    ("url", "key", "field"),
    [
        ("", "", "membridge_url"),
        ("nonsense", "", "membridge_url"),
        ("http://user:password@host", "", "membridge_url"),
        ("ftp://host", SECRET_KEY, "membridge_url"),
        ("http://host:8000", "ключ", "membridge_key"),
        ("http://another:8000", "", "membridge_key"),
    ],
)
def test_a_bad_connection_is_told_at_its_field_and_nothing_is_saved(
    keyed: Replica, admin: Visitor, url: str, key: str, field: str
) -> None:
    assert connect(admin, "http://first:8000", SECRET_KEY)[0] == 303
    status, page = connect(admin, url, key)
    assert status == 400 and f'id="{field}-problem"' in page and SECRET_KEY not in page
    assert not url or f'value="{url}"' in page
    assert told(keyed.get("/config"))["membridge_server_url"] == "http://first:8000"


def test_the_state_of_database_and_store_is_shown(start_replica: StartReplica, tmp_path: str, admin: Visitor) -> None:
    words = words_of(admin.page("/settings"))
    assert re.search(rf"PostgreSQL \d+.* Size \S+ MiB Schema {HEAD} Connections \d+ of \d+", words)
    assert "None is set: outputs stay in PostgreSQL." in words
    replica = start_replica(BLOOM_BLOB_DIR=str(tmp_path))
    with Visitor(replica.url) as visitor:
        assert "Kind a directory State answers" in words_of(visitor.page("/settings"))


def test_a_key_is_made_shown_once_and_revoked(keyed: Replica, admin: Visitor) -> None:
    made = admin.post("/settings/keys", on="/settings", name="ci <b>", role="submitter", worker_name="", life="86400")
    assert made.status_code == 200 and made.headers["cache-control"] == "no-store"
    found = re.search(r"bloom_submitter_[\w-]{43}", made.text)
    assert found and "<b>" not in made.text
    page = admin.page("/settings")
    assert found[0] not in page and "ci &lt;b&gt;" in page
    key = next(key for key in told(keyed.get("/keys")) if key["name"] == "ci <b>")
    assert key["expires_at"] is not None
    with Visitor(keyed.url) as other:
        assert other.sign_in(found[0]).status_code == 303 and other.get("/workers").status_code == 200
        asked = words_of(admin.page(f"/settings/keys/{key['id']}/revoke"))
        assert "Revoke ci <b>?" in asked and "cannot be undone" in asked and "signed in with" not in asked
        assert admin.post(f"/settings/keys/{key['id']}/revoke").headers["location"] == "/settings?notice=key_revoked"
        assert other.get("/workers").headers["location"].startswith("/sign-in")
    assert f"/settings/keys/{key['id']}/revoke" not in admin.page("/settings")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": ""}, "key-problem"),
        ({"name": "x" * 129}, "key-problem"),
        ({"name": "taken"}, "key-problem"),
        ({"role": "worker"}, "key-worker-problem"),
        ({"role": "worker", "worker_name": "\x07"}, "key-worker-problem"),
    ],
)
def test_a_bad_new_key_is_told_at_its_field(
    keyed: Replica, admin: Visitor, fields: dict[str, str], problem: str
) -> None:
    keyed.post("/keys", {"name": "taken", "role": "reader"})
    before = told(keyed.get("/keys"))
    whole = {"name": "a new one", "role": "reader", "worker_name": "", "life": "0", **fields}
    answer = admin.post("/settings/keys", on="/settings", **whole)
    assert (
        answer.status_code == 400
        and f'id="{problem}"' in answer.text
        and not re.search(r"bloom_\w+_[\w-]{43}", answer.text)
    )
    assert told(keyed.get("/keys")) == before
    assert admin.post("/settings/keys", on="/settings", **{**whole, "role": "join"}).status_code == 400


def test_revoking_ones_own_key_says_so_and_signs_out(keyed: Replica) -> None:
    made = told(keyed.post("/keys", {"name": "mine", "role": "admin"}), 201)
    with Visitor(keyed.url) as visitor:
        visitor.sign_in(made["key"])
        assert "you will be signed out" in words_of(visitor.page(f"/settings/keys/{made['id']}/revoke"))
        visitor.post(f"/settings/keys/{made['id']}/revoke")
        assert visitor.get("/settings").headers["location"].startswith("/sign-in")


@pytest.mark.parametrize("role", [Role.READER, Role.SUBMITTER])
def test_settings_are_for_admins(keyed: Replica, role: Role) -> None:
    with signed_in(keyed, role) as visitor:
        before = told(keyed.get("/keys", limit=1))
        assert visitor.get("/settings").status_code == 403
        for path in ("/settings/membridge", "/settings/membridge/test", "/settings/keys"):
            assert visitor.post(path, name="x", role="admin", life="0").status_code == 403, path
        assert [key["id"] for key in told(keyed.get("/keys", limit=1))] == [before[0]["id"]]
