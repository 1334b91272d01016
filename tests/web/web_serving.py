"""An app with a route of each kind, behind the middleware, as in-process client and as a real server."""

import asyncio
import socket
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import uvicorn
from anyio.lowlevel import checkpoint
from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import StreamingResponse

from bloom.base.errors import BloomError
from bloom.base.fields import StorableText
from bloom.base.settings import ServerSettings, load
from bloom.web.auth import Principal, current_principal
from bloom.web.bodies import StrictRoute
from bloom.web.disconnect import Stopping
from bloom.web.install import install_web

KEY = "a key of the admin"


class Policy(BaseModel):
    timeout_sec: int = Field(default=120, ge=1, le=3600)


class NewThing(BaseModel):
    name: Annotated[StorableText, Field(min_length=1, max_length=8)]
    hints: list[str] = []
    policy: Policy = Policy()
    extra: Any = None


class Options(BaseModel):
    ttl: int | None = None


def sample_app() -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    router = APIRouter(prefix="/api/runtime", route_class=StrictRoute)

    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.post("/test-connection")
    async def test_connection() -> dict[str, bool]:
        return {"connected": True}

    @router.get("/whoami")
    async def whoami(principal: Annotated[Principal, Depends(current_principal)]) -> dict[str, str]:
        return {"name": principal.name, "role": principal.role}

    @router.post("/things", status_code=201)
    async def create(thing: NewThing) -> NewThing:
        return thing

    @router.post("/things/{thing_id}/options")
    async def options(thing_id: str, given: Options | None = None) -> dict[str, Any]:
        return {"given": given is not None}

    @router.get("/things")
    async def things(limit: Annotated[int, Field(ge=1, le=1000)] = 100) -> dict[str, int]:
        return {"limit": limit}

    @router.put("/uploads/{name}")
    async def upload(name: str, request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @router.post("/workers/{worker_id}/claim")
    @router.post("/llm-tasks/{worker_id}/events")
    async def claim(worker_id: str) -> dict[str, str]:
        return {"worker": worker_id}

    @router.get("/flood")
    async def flood() -> StreamingResponse:
        async def endless() -> AsyncGenerator[bytes]:
            try:
                while True:
                    yield b"x" * 65_536
                    await checkpoint()
            finally:
                app.state.flood_ended.set()

        return StreamingResponse(endless())

    @router.get("/fails/{number}")
    async def fails(number: int) -> None:
        raise app.state.errors[number]

    @app.get("/page")
    async def page(request: Request) -> dict[str, Any]:
        return {"client": request.client and request.client.host, "scheme": request.url.scheme}

    @app.post("/form")
    async def form() -> dict[str, bool]:
        return {"ok": True}

    app.include_router(router)
    app.state.flood_ended = threading.Event()
    app.state.errors = list[BloomError | Exception]()
    return app


class Serving:
    """The sample app behind the middleware, and ways to call it."""

    def __init__(self, **settings: Any) -> None:
        self.app = sample_app()
        values = {"RUNTIME_API_KEY": KEY, "BLOOM_RATE_LIMIT": "off", **settings}
        self.settings = load(ServerSettings, **{name: value for name, value in values.items() if value is not None})
        self.stopping: Stopping = install_web(
            self.app, self.settings, exempt_body=lambda method, path: method == "PUT" and path.endswith("/free")
        )

    def client(
        self, *, peer: str = "192.0.2.7", key: str | None = KEY, base_url: str = "http://localhost:5000", root: str = ""
    ) -> httpx.AsyncClient:
        """A client in this process that connects from `peer`."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(peer, 4711), root_path=root)
        headers = {} if key is None else {"X-Runtime-API-Key": key}
        return httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers)

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[tuple[str, int]]:
        """A real server on a free port of loopback: its host and port."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(
                self.app, lifespan="off", log_config=None, access_log=False, ws="none", proxy_headers=False
            )
            server = uvicorn.Server(config)
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            try:
                yield listener.getsockname()[:2]
            finally:
                self.stopping.begin()
                server.should_exit = True
                await asyncio.wait_for(serving, 5)
