"""A runtime that asks for keys, and callers with keys of each role."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from tests.real_runtime import Api, told

from bloom.base.roles import Role
from bloom.base.settings import ServerSettings, load
from bloom.server.app import build_app

ADMIN_KEY = "the key of the environment"
OWN, OTHER = "own-worker", "other-worker"


def create_key(api: Api, role: Role | str, name: str | None = None, **fields: Any) -> dict[str, Any]:
    """A new key; that of a worker is for OWN."""
    if role == Role.WORKER:
        fields.setdefault("worker_name", OWN)
    return told(api.post("/keys", {"name": name or f"a {role} key", "role": role, **fields}), 201)


@contextmanager
def shown(replica: Api, key: str) -> Generator[Api]:
    """A caller of `replica` who shows `key`."""
    api = Api(replica.url, key)
    try:
        yield api
    finally:
        api.close()


@contextmanager
def holder(replica: Api, role: Role | str, **fields: Any) -> Generator[Api]:
    """A caller with a new key of `role`."""
    with shown(replica, create_key(replica, role, **fields)["key"]) as api:
        yield api


@cache
def app_of_the_runtime() -> FastAPI:
    """The app, not served."""
    return build_app(load(ServerSettings, DATABASE_URL="postgresql://nobody@localhost/nothing"))[0]


def routes_of_the_runtime() -> set[tuple[str, str]]:
    """Method and path of every route of the app."""
    found: set[tuple[str, str]] = set()
    for route in iter_route_contexts(app_of_the_runtime().routes):
        assert route.path is not None and route.methods, f"{route} cannot have a rule"
        found |= {(method, route.path) for method in route.methods}
    return found
