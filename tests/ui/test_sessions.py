"""Signing in and out, and what a session is worth."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
from itsdangerous import TimestampSigner
from tests.real_postgres import PostgresServer
from tests.real_runtime import Replica, StartReplica, told
from visitor import ADMIN_KEY, Visitor, signed_in, words_of

from bloom.base.roles import Role
from bloom.upstream.sealing import Sealer
from bloom.web.sessions import SESSION_COOKIE, SESSION_SEC, Sessions

SECRET = "a secret of these tests"
OURS: dict[str, Any] = {"RUNTIME_API_KEY": ADMIN_KEY, "BLOOM_SECRET_KEY": SECRET}


@pytest.fixture(scope="module")
def keyed(postgres_server: PostgresServer) -> Generator[Replica]:
    with postgres_server.database() as database, Replica(database.url, **OURS) as replica:
        replica.until_listening()
        yield replica


def sessions_of_the_runtime(admin_key: str = ADMIN_KEY, secret: str = SECRET) -> Sessions:
    return Sessions(Sealer(Path("/nowhere"), secret).derive("sessions"), admin_key)


def cookie_of_age(age_sec: int, monkeypatch: pytest.MonkeyPatch, subject: str = "admin") -> str:
    """A session that was used last so many seconds ago."""

    def moment(_: TimestampSigner) -> int:
        return int(time.time()) - age_sec

    with monkeypatch.context() as patch:
        patch.setattr(TimestampSigner, "get_timestamp", moment)
        return sessions_of_the_runtime().open(subject)


def status_with(replica: Replica, cookie: str, path: str = "/workers") -> int:
    return shown(replica, cookie, path).status_code


def shown(replica: Replica, cookie: str, path: str = "/workers") -> httpx.Response:
    """The answer to who has this cookie and no key."""
    with Visitor(replica.url) as visitor:
        return visitor.http.get(path, headers=[(b"Cookie", f"{SESSION_COOKIE}={cookie}".encode("latin-1"))])


def test_a_page_leads_to_the_sign_in_and_back(keyed: Replica) -> None:
    with Visitor(keyed.url) as visitor:
        assert visitor.get("/").headers["location"] == "/sign-in"
        answer = visitor.get("/leases", status="all")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?next=%2Fleases%3Fstatus%3Dall")
        assert visitor.get("/workers/ї").headers["location"] == "/sign-in?next=%2Fworkers%2F%25D1%2597"
        form = visitor.page("/sign-in", next="/leases?status=all")
        assert 'name="next" value="/leases?status=all"' in form and "Workers" not in words_of(form)
        answer = visitor.sign_in(ADMIN_KEY, next="/leases?status=all")
        assert (answer.status_code, answer.headers["location"]) == (303, "/leases?status=all")
        assert visitor.get("/leases").status_code == 200
        assert visitor.get("/sign-in", next="/workers").headers["location"] == "/workers"


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(keyed: Replica) -> None:
    with Visitor(keyed.url) as visitor:
        flags = visitor.sign_in(ADMIN_KEY).headers["set-cookie"].split("; ")[1:]
        assert sorted(flags) == ["HttpOnly", f"Max-Age={SESSION_SEC}", "Path=/", "SameSite=Lax"]
    with Visitor(keyed.url, **{"X-Forwarded-Proto": "https"}) as visitor:
        answer = visitor.sign_in(ADMIN_KEY)
        assert "Secure" in answer.headers["set-cookie"].split("; ") and ADMIN_KEY not in str(answer.headers)


def test_tls_is_believed_of_trusted_proxies_alone(start_replica: StartReplica) -> None:
    replica = start_replica(**OURS, BLOOM_TRUSTED_PROXIES="none")
    with Visitor(replica.url, **{"X-Forwarded-Proto": "https"}) as visitor:
        assert "Secure" not in visitor.sign_in(ADMIN_KEY).headers["set-cookie"]


@pytest.mark.parametrize("key", ["", "wrong", " ", "x" * 5000, "ключ", "bloom_reader_" + "x" * 43])
def test_a_wrong_key_opens_nothing(keyed: Replica, key: str) -> None:
    with Visitor(keyed.url) as visitor:
        answer = visitor.sign_in(key)
        assert answer.status_code == 401 and "set-cookie" not in answer.headers
        assert "This key is not known" in words_of(answer.text) and (len(key) < 5 or key not in answer.text)


@pytest.mark.parametrize("role", [Role.WORKER, Role.JOIN])
def test_keys_of_machines_do_not_sign_in(keyed: Replica, role: Role) -> None:
    named = {"worker_name": "pi"} if role is Role.WORKER else {}
    key = told(keyed.post("/keys", {"name": f"a {role}", "role": role, **named}), 201)["key"]
    with Visitor(keyed.url) as visitor:
        answer = visitor.sign_in(key)
        assert answer.status_code == 401 and "pages are for people" in words_of(answer.text)


def test_signing_out_ends_it(keyed: Replica) -> None:
    with signed_in(keyed) as visitor:
        answer = visitor.post("/sign-out")
        assert "Max-Age=0" in answer.headers["set-cookie"]
        assert visitor.get("/workers").status_code == 303
        assert "You are signed out." in words_of(visitor.page(answer.headers["location"]))


def test_a_session_that_is_not_used_ends(keyed: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status_with(keyed, cookie_of_age(SESSION_SEC - 60, monkeypatch)) == 200
    assert status_with(keyed, cookie_of_age(SESSION_SEC + 1, monkeypatch)) == 303


def test_a_session_that_is_used_is_prolonged_with_its_form_tokens(
    keyed: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = cookie_of_age(SESSION_SEC // 2, monkeypatch)
    answer = shown(keyed, old)
    renewed = answer.headers["set-cookie"].split(";")[0].partition("=")[2]
    ours = sessions_of_the_runtime()
    before, after = ours.read(old), ours.read(renewed)
    assert before and after and before.id == after.id and after.age_sec < 60
    assert "set-cookie" not in shown(keyed, renewed).headers


@pytest.mark.parametrize("value", ["", "nonsense", "a.b.c", "admin", "x" * 5000, "é"])
def test_a_made_up_cookie_is_no_session(keyed: Replica, value: str) -> None:
    assert status_with(keyed, value) == 303


def test_a_session_of_another_secret_or_subject_is_none(keyed: Replica) -> None:
    assert status_with(keyed, sessions_of_the_runtime(secret="another").open("admin")) == 303
    assert status_with(keyed, sessions_of_the_runtime().open("nobody")) == 303
    cookie = sessions_of_the_runtime().open("admin")
    assert status_with(keyed, cookie) == 200
    assert status_with(keyed, cookie.replace("/admin", "/admiN")) == 303


def test_a_revoked_key_ends_its_session(keyed: Replica) -> None:
    made = told(keyed.post("/keys", {"name": "person", "role": "reader"}), 201)
    with Visitor(keyed.url) as visitor:
        visitor.sign_in(made["key"])
        assert visitor.get("/workers").status_code == 200
        told(keyed.delete(f"/keys/{made['id']}"))
        assert visitor.get("/workers").status_code == 303


def test_every_replica_knows_a_session_and_another_admin_key_ends_it(start_replica: StartReplica) -> None:
    one, other = start_replica(**OURS), start_replica(**OURS)
    changed = start_replica(RUNTIME_API_KEY="another key", BLOOM_SECRET_KEY=SECRET)
    cookie = sessions_of_the_runtime().open("admin")
    assert [status_with(replica, cookie) for replica in (one, other, changed)] == [200, 200, 303]


@pytest.mark.parametrize("path", ["/api/runtime/workers", "/api/runtime/keys", "/api/membridge/projects"])
def test_the_api_takes_no_session(keyed: Replica, path: str) -> None:
    cookie = sessions_of_the_runtime().open("admin")
    assert status_with(keyed, cookie, path) == 401
    with Visitor(keyed.url, Cookie=f"{SESSION_COOKIE}={cookie}") as visitor:
        assert visitor.http.post("/api/runtime/keys", json={"name": "x", "role": "admin"}).status_code == 401
