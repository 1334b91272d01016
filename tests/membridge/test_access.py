"""Who may call the control plane, and what it tells of itself."""

import socket
import subprocess
import sys

import httpx
import pytest
from fastapi import FastAPI
from tests.membridge.conftest import StartPlane
from tests.real_membridge import KEY, Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import refused, told

from bloom import __version__
from bloom.base.errors import ConfigurationError
from bloom.base.settings import load
from bloom.membridge.settings import MembridgeSettings
from bloom.server.membridge_app import build_membridge_app

DATABASE = "postgresql://nobody@127.0.0.1:1/none"


def app_with(**environment: str) -> FastAPI:
    values = {"DATABASE_URL": DATABASE, **environment}
    return build_membridge_app(load(MembridgeSettings, **values))[0]


def test_every_route_but_health_needs_the_key(plane: Membridge) -> None:
    app = app_with(MEMBRIDGE_ADMIN_KEY=KEY)
    paths: dict[str, dict[str, object]] = app.openapi()["paths"]
    asked = [(method.upper(), path) for path, methods in paths.items() for method in methods if path != "/health"]
    assert len(asked) > 20
    with httpx.Client(base_url=plane.url, trust_env=False) as stranger:
        for method, path in [*asked, ("GET", "/openapi.json"), ("GET", "/nothing"), ("POST", "/health")]:
            for key in (None, KEY[:-1]):
                headers = {} if key is None else {"X-MEMBRIDGE-ADMIN": key}
                answer = stranger.request(method, path, headers=headers)
                if answer.status_code != 429:
                    assert refused(answer, 401) == "unauthorized", (method, path)
                assert KEY not in answer.text


def test_health_is_open_and_counts_projects_and_agents(plane: Membridge) -> None:
    plane.heartbeat("a")
    told(plane.post("/agents", {"name": "pi"}), 201)
    with httpx.Client(base_url=plane.url, trust_env=False) as stranger:
        assert told(stranger.get("/health")) == {
            "status": "ok",
            "service": "membridge-control-plane",
            "version": __version__,
            "projects": 1,
            "agents": 1,
        }


def test_guessing_keys_is_slowed_down_and_whoever_uses_the_key_is_not(plane: Membridge) -> None:
    told(plane.get("/projects"))
    with httpx.Client(base_url=plane.url, headers={"X-MEMBRIDGE-ADMIN": "guess"}, trust_env=False) as stranger:
        codes = [stranger.get("/projects").status_code for _ in range(20)]
        assert set(codes[:11]) == {401} and 429 in codes[11:]
        assert stranger.get("/health").status_code == 200
    assert told(plane.get("/projects")) == []


def test_the_previous_key_is_taken_beside_the_new_one(start_plane: StartPlane) -> None:
    plane = start_plane(MEMBRIDGE_ADMIN_KEY_PREVIOUS="the one before")
    headers = {"X-MEMBRIDGE-ADMIN": "the one before"}
    assert httpx.get(f"{plane.url}/projects", headers=headers, trust_env=False).status_code == 200
    assert told(plane.get("/projects")) == []
    with pytest.raises(ConfigurationError, match="MEMBRIDGE_ADMIN_KEY must be set"):
        app_with(MEMBRIDGE_ADMIN_KEY_PREVIOUS="alone", MEMBRIDGE_DEV="1")


def test_answers_carry_the_security_headers_and_are_not_stored(plane: Membridge) -> None:
    answer = plane.get("/projects")
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]


def test_its_health_says_that_the_database_is_away_and_names_nothing() -> None:
    with Membridge(DATABASE) as plane:
        answer = plane.get("/health")
        assert told(answer, 503)["status"] == "degraded" and "nobody" not in answer.text


@pytest.mark.parametrize(
    "environment",
    [{}, {"BLOOM_ENV": "production"}, {"BLOOM_ENV": "production", "MEMBRIDGE_DEV": "1"}, {"NODE_ENV": "test"}],
)
def test_it_does_not_start_without_a_key(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="MEMBRIDGE_ADMIN_KEY"):
        app_with(**environment)


def test_in_development_mode_it_serves_this_machine_and_no_web_page(start_plane: StartPlane) -> None:
    for plane in (start_plane(key=None, MEMBRIDGE_DEV="1"), start_plane(key=None, BLOOM_ENV="development")):
        with httpx.Client(base_url=plane.url, trust_env=False) as local:
            told(local.post("/agents", json={"name": "pi"}), 201, 200)
            for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
                assert refused(local.post("/agents", json={"name": "pi"}, headers=headers), 403) == "forbidden"
            form = local.post("/agents", content=b'{"name":"x"}', headers={"Content-Type": "text/plain"})
            assert refused(form, 415) == "unsupported_media_type"
            assert local.delete("/agents/pi").status_code == 204
            assert local.get("/audit").json()[0]["actor"] == "local"


def test_in_development_mode_a_key_that_is_set_is_asked_for_all_the_same(start_plane: StartPlane) -> None:
    plane = start_plane(MEMBRIDGE_DEV="1")
    assert refused(httpx.get(f"{plane.url}/projects", trust_env=False), 401) == "unauthorized"


@pytest.mark.parametrize(
    ("arguments", "environment", "word"),
    [([], {}, "MEMBRIDGE_ADMIN_KEY"), (["--host", "0.0.0.0", "--port", "0"], {"MEMBRIDGE_DEV": "1"}, "loopback")],  # noqa: S104
)
def test_the_command_refuses_to_serve_others_without_a_key(
    arguments: list[str], environment: dict[str, str], word: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bloom", "membridge", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "DATABASE_URL": DATABASE, **environment},
    )
    assert ended.returncode == 2, ended.stderr
    assert word in ended.stderr and "Traceback" not in ended.stderr


def test_the_command_serves_and_applies_the_schema(empty_database: FreshDatabase) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "bloom", "membridge", "serve", "--fd", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env={"PATH": "/usr/bin:/bin", "DATABASE_URL": empty_database.url, "MEMBRIDGE_ADMIN_KEY": KEY},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert told(httpx.get(f"{url}/health", timeout=30, trust_env=False))["projects"] == 0
            headers = {"X-MEMBRIDGE-ADMIN": KEY}
            told(httpx.post(f"{url}/projects", json={"name": "garden"}, headers=headers, trust_env=False), 201)
        finally:
            process.terminate()
            _, log = process.communicate(timeout=15)
    assert KEY not in log and "/projects" in log
