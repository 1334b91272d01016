"""The real control plane of Membridge for tests, in a thread of this process."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

import httpx
from tests.real_runtime import PATIENCE_SEC, AppThread, told, without_maintenance

from bloom.base.settings import load
from bloom.membridge.model import canonical_id_of
from bloom.membridge.settings import MembridgeSettings
from bloom.server import membridge_app as composition
from bloom.server.membridge_app import ControlPlane, build_membridge_app

KEY = "a key of Membridge's admin"

T = TypeVar("T")


class Membridge:
    """One process's worth of the control plane on loopback, and a client of it that has the key.

    Without `maintenance` nothing happens by the clock. `environment` are settings by their names, `key=None` is none.
    """

    def __init__(
        self, database_url: str, *, maintenance: bool = False, key: str | None = KEY, **environment: str
    ) -> None:
        values = {
            "DATABASE_URL": database_url,
            "BLOOM_DB_POOL_SIZE": "4",
            **({} if key is None else {"MEMBRIDGE_ADMIN_KEY": key}),
            **environment,
        }
        app, stopping = build_membridge_app(load(MembridgeSettings, **values))
        self.services: ControlPlane = app.state.control_plane
        self._served = AppThread(app, stopping)
        self.key = key or ""
        with without_maintenance(composition, wanted=maintenance):
            self._served.start()
        self.url = self._served.url
        self.http = httpx.Client(
            base_url=self.url, headers={"X-MEMBRIDGE-ADMIN": self.key}, timeout=30, trust_env=False
        )

    def get(self, path: str, **params: str | int) -> httpx.Response:
        return self.http.get(path, params=params or None)

    def post(self, path: str, body: Any = None) -> httpx.Response:
        return self.http.post(path, json={} if body is None else body)

    def delete(self, path: str) -> httpx.Response:
        return self.http.delete(path)

    def heartbeat(self, node_id: str, project: str = "project", **fields: Any) -> dict[str, Any]:
        """A node's heartbeat: what it is told."""
        cid = canonical_id_of(project)
        body = {"node_id": node_id, "canonical_id": cid, "project_id": project, **fields}
        return told(self.post("/agent/heartbeat", body))

    def select(self, node_id: str, lease_seconds: int = 3600, project: str = "project") -> dict[str, Any]:
        """Make the node the primary."""
        path = f"/projects/{canonical_id_of(project)}/leadership/select"
        return told(self.post(path, {"primary_node_id": node_id, "lease_seconds": lease_seconds}))

    def leadership(self, project: str = "project") -> dict[str, Any]:
        """Who leads."""
        return told(self.get(f"/projects/{canonical_id_of(project)}/leadership"))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The outcome of `work`, run on the server's event loop."""
        return self._served.run(work)

    def until_listening(self) -> None:
        """Return when the process hears notifications."""
        self.run(asyncio.wait_for(self.services.hub.listening.wait(), PATIENCE_SEC))

    def leave(self) -> None:
        """Tell the server to stop; does not wait for it."""
        self._served.leave()

    def stop(self) -> None:
        """End the server and its thread."""
        self.http.close()
        self._served.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
