"""Where Membridge is and with which key it is called: saved, of the environment, default."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from membridge_stub import Stub
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, refused, told

from bloom.base.errors import ConfigurationError
from bloom.base.settings import ServerSettings, load
from bloom.server.app import build_app

KEY = "canary-a41e-saved-key"
OTHER_KEY = "canary-b52f-other-key"


@pytest.fixture
def runtime(start_replica: StartReplica, tmp_path: Path) -> Replica:
    """A runtime with a data directory of its own."""
    return start_replica(BLOOM_DATA_DIR=str(tmp_path))


def config(runtime: Replica) -> dict[str, Any]:
    return told(runtime.get("/config"))


def save(runtime: Replica, **fields: Any) -> dict[str, Any]:
    return told(runtime.post("/config", fields))


def bad_fields(runtime: Replica, **fields: Any) -> Mapping[str, list[str]]:
    """What POST /config says of each field that it refuses."""
    answer = runtime.post("/config", fields)
    assert refused(answer, 400) == "invalid"
    for value in fields.values():
        assert not isinstance(value, str) or len(value) < 8 or value not in answer.text
    return answer.json()["error"]["fieldErrors"]


def test_nothing_is_configured_at_first_and_nobody_is_called(runtime: Replica) -> None:
    assert config(runtime) == {
        "membridge_server_url": "http://127.0.0.1:8000",
        "admin_key_masked": "",
        "connected": False,
        "last_test": None,
        "key_source": "none",
        "problem": None,
    }
    answer = runtime.http.get(f"{runtime.url}/api/membridge/projects")
    assert refused(answer, 502) == "membridge_not_configured"
    assert told(runtime.post("/test-connection")) == {"connected": False, "error": "No Membridge is configured."}
    assert told(runtime.get("/health"))["membridge"] == {
        "consecutiveFailures": 0,
        "lastSuccess": None,
        "lastError": None,
        "connected": False,
    }


def test_what_is_saved_goes_before_the_environment_and_that_before_the_default(
    start_replica: StartReplica, tmp_path: Path
) -> None:
    environment = {"MEMBRIDGE_SERVER_URL": "http://env.example:1234/", "MEMBRIDGE_ADMIN_KEY": "environment-key"}
    runtime = start_replica(maintenance=False, BLOOM_DATA_DIR=str(tmp_path), **environment)
    assert config(runtime)["membridge_server_url"] == "http://env.example:1234"
    assert (config(runtime)["admin_key_masked"], config(runtime)["key_source"]) == ("envi********-key", "environment")
    saved = save(runtime, membridge_server_url="https://Saved.example:443/sub/", admin_key=KEY)
    assert saved == config(runtime) and saved["membridge_server_url"] == "https://saved.example/sub"
    assert (saved["admin_key_masked"], saved["key_source"]) == ("cana********-key", "saved")
    only_key = start_replica(MEMBRIDGE_ADMIN_KEY="environment-key", BLOOM_DATA_DIR=str(tmp_path))
    assert config(only_key) == saved


def test_both_names_of_the_key_are_taken(runtime: Replica) -> None:
    for name, key in (("admin_key", "first-key-1"), ("membridge_admin_key", "other-key-2")):
        save(runtime, membridge_server_url="http://m.example", **{name: key})
        assert config(runtime)["admin_key_masked"] == f"{key[:4]}********{key[-4:]}"
    save(runtime, membridge_admin_key=f" {KEY}\n", admin_key=KEY)
    assert "membridge_admin_key" in bad_fields(runtime, admin_key=KEY, membridge_admin_key=OTHER_KEY)


def test_a_key_of_up_to_eight_characters_is_hidden_whole(runtime: Replica) -> None:
    for key, masked in (("a", "*" * 8), ("12345678", "*" * 8), ("123456789", "1234********6789")):
        assert save(runtime, membridge_server_url="http://m.example", admin_key=key)["admin_key_masked"] == masked


BAD_URLS = [
    "m.example:8000",
    "ftp://m.example",
    "http://",
    "http:///path",
    "file:///etc/passwd",
    "http://user:password@m.example",
    "http://user@m.example",
    "http://m.example\\@evil.example",
    "http://m.example/?key=1",
    "http://m.example/#x",
    "http://m.example:99999",
    "http://m.example:0",
    "http://m .example",
    "http://m.example/\r\nX-Evil: 1",
    "http://[::1",
    "http://m.example/" + "x" * 3000,
    "http://m.example\u0000",
    "javascript:alert(1)",
    7,
    ["http://m.example"],
]


def test_an_address_that_is_none_is_refused(runtime: Replica) -> None:
    for url in BAD_URLS:
        assert list(bad_fields(runtime, membridge_server_url=url, admin_key=KEY)) == ["membridge_server_url"], url
    assert config(runtime)["key_source"] == "none"


def test_a_key_that_no_header_can_carry_is_refused(runtime: Replica) -> None:
    for key in ("schlüssel-ä", "with\nline", "nul\x00", "k" * 1025, 7, {"a": 1}):
        for name in ("admin_key", "membridge_admin_key"):
            assert list(bad_fields(runtime, **{"membridge_server_url": "http://m.example", name: key})) == [name]


def test_another_origin_asks_for_the_key_again(runtime: Replica) -> None:
    before = save(runtime, membridge_server_url="http://m.example:8000", admin_key=KEY)
    for url in ("https://m.example:8000", "http://m.example:8001", "http://other.example:8000", "http://m.example"):
        for key in (None, "", "  ", "cana********-key"):
            assert list(bad_fields(runtime, membridge_server_url=url, admin_key=key)) == ["admin_key"], (url, key)
    assert config(runtime) == before
    assert save(runtime, membridge_server_url="http://m.example", admin_key=OTHER_KEY)["key_source"] == "saved"


def test_the_key_of_the_environment_is_not_shown_to_another_origin_either(
    start_replica: StartReplica, membridge: Stub, tmp_path: Path
) -> None:
    runtime = start_replica(
        MEMBRIDGE_SERVER_URL="http://m.example", MEMBRIDGE_ADMIN_KEY=KEY, BLOOM_DATA_DIR=str(tmp_path)
    )
    assert list(bad_fields(runtime, membridge_server_url=membridge.url)) == ["admin_key"]
    assert save(runtime, membridge_server_url="http://m.example/sub")["key_source"] == "environment"
    # Nor is it by a replica whose environment differs from that of the one where an address was saved.
    other = start_replica(
        MEMBRIDGE_SERVER_URL=membridge.url, MEMBRIDGE_ADMIN_KEY=OTHER_KEY, BLOOM_DATA_DIR=str(tmp_path)
    )
    assert (config(other)["membridge_server_url"], config(other)["key_source"]) == ("http://m.example/sub", "none")


def test_the_same_origin_keeps_the_key(runtime: Replica) -> None:
    save(runtime, membridge_server_url="http://m.example", admin_key=KEY)
    kept = save(runtime, membridge_server_url="HTTP://M.example:80/sub", admin_key="cana********-key")
    assert (kept["membridge_server_url"], kept["admin_key_masked"]) == ("http://m.example/sub", "cana********-key")
    assert save(runtime, admin_key=OTHER_KEY)["membridge_server_url"] == "http://m.example/sub"


def test_nothing_to_save_is_refused(runtime: Replica) -> None:
    assert list(bad_fields(runtime)) == ["membridge_server_url"]
    assert list(bad_fields(runtime, admin_key="", unknown="x")) == ["membridge_server_url"]


def test_the_key_is_stored_sealed_and_moved_to_another_origin_it_cannot_be_opened(
    runtime: Replica, database: FreshDatabase, membridge: Stub
) -> None:
    save(runtime, membridge_server_url="http://m.example", admin_key=KEY)
    sealed = bytes(database.value("select admin_key from bloom.membridge_connection"))
    assert KEY.encode() not in sealed and KEY not in str(database.dump())
    database.edit("update bloom.membridge_connection set url = %(url)s", url=membridge.url)
    assert config(runtime)["key_source"] == "unreadable"
    told(runtime.post("/test-connection"))
    assert membridge.seen == []


def test_a_key_that_cannot_be_read_is_told_and_can_be_entered_again(
    start_replica: StartReplica, membridge: Stub, tmp_path: Path
) -> None:
    membridge.admin_key = KEY
    save(start_replica(BLOOM_SECRET_KEY="one"), membridge_server_url=membridge.url, admin_key=KEY)
    runtime = start_replica(BLOOM_SECRET_KEY="two", MEMBRIDGE_ADMIN_KEY=OTHER_KEY)
    found = config(runtime)
    assert (found["key_source"], found["admin_key_masked"]) == ("unreadable", "")
    assert "Enter the key again" in found["problem"]
    answer = runtime.http.get(f"{runtime.url}/api/membridge/projects")
    assert refused(answer, 502) == "membridge_key_unreadable"
    assert "Enter the key again" in told(runtime.get("/health"))["membridge"]["lastError"]
    assert membridge.seen == []
    assert list(bad_fields(runtime, membridge_server_url=membridge.url)) == ["admin_key"]
    assert save(runtime, admin_key=KEY)["problem"] is None
    assert told(runtime.post("/test-connection"))["connected"]


def test_where_no_secret_can_be_kept_no_runtime_starts(start_replica: StartReplica, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"BLOOM_DATA_DIR.*BLOOM_SECRET_KEY"):
        start_replica(BLOOM_DATA_DIR=str(tmp_path / "file"))


def test_saving_is_audited_without_the_key(runtime: Replica) -> None:
    save(runtime, membridge_server_url="http://m.example", admin_key=KEY)
    save(runtime, membridge_server_url="http://m.example/sub")
    entries = [entry for entry in told(runtime.get("/audit")) if entry["action"] == "config_updated"]
    assert [(e["entity_type"], e["entity_id"], e["actor"]) for e in entries] == [("config", "membridge", "local")] * 2
    assert [entry["detail"] for entry in entries] == [
        {"membridge_server_url": "http://m.example/sub", "key_changed": False},
        {"membridge_server_url": "http://m.example", "key_changed": True},
    ]


def test_other_replicas_call_the_saved_membridge_at_once(
    start_replica: StartReplica, membridge: Stub, tmp_path: Path
) -> None:
    with Stub() as before:
        environment = {"MEMBRIDGE_SERVER_URL": before.url, "BLOOM_DATA_DIR": str(tmp_path)}
        one, other = (start_replica(maintenance=False, **environment) for _ in range(2))
        told(other.http.get(f"{other.url}/api/membridge/projects"))
        assert told(other.get("/health"))["membridge"]["connected"]
        save(one, membridge_server_url=membridge.url, admin_key=KEY)
        asked_before = len(before.seen)
        told(other.http.get(f"{other.url}/api/membridge/projects"))
        assert (membridge.seen[-1].key, len(before.seen)) == (KEY, asked_before)


def test_the_sync_of_every_replica_hears_of_what_is_saved(
    start_replica: StartReplica, membridge: Stub, tmp_path: Path
) -> None:
    membridge.agents = [{"name": "pi"}]
    one = start_replica(BLOOM_DATA_DIR=str(tmp_path))
    other = start_replica(maintenance=True, BLOOM_DATA_DIR=str(tmp_path))
    other.until_listening()
    save(one, membridge_server_url=membridge.url)
    eventually(lambda: other.get("/workers/pi").status_code == 200, what="the worker")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MEMBRIDGE_SERVER_URL", "m.example"),
        ("MEMBRIDGE_SERVER_URL", "http://u:p@m.example"),
        ("MEMBRIDGE_ADMIN_KEY", "schlüssel"),
    ],
)
def test_a_bad_variable_is_named(name: str, value: str) -> None:
    settings = load(ServerSettings, DATABASE_URL="postgresql://nobody@localhost/nothing", **{name: value})
    with pytest.raises(ConfigurationError) as error:
        build_app(settings)
    assert error.value.message.startswith(f"{name}: ") and value not in error.value.message
