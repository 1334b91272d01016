"""Composition root of Membridge's control plane."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from fastapi import FastAPI, Response
from starlette.responses import JSONResponse

from bloom import __version__
from bloom.base.errors import BloomError, ConfigurationError
from bloom.db.hub import Hub
from bloom.db.pool import Database
from bloom.membridge.access import RequireAdminKeyMiddleware
from bloom.membridge.calling import AgentCaller
from bloom.membridge.routes.agents import agent_routes, audit_routes, job_routes
from bloom.membridge.routes.projects import leadership_routes, project_routes, version_routes
from bloom.membridge.service.jobs import JobService
from bloom.membridge.service.leadership import LeadershipService
from bloom.membridge.service.projects import ProjectService
from bloom.membridge.service.publishing import LeasePublisher
from bloom.membridge.service.versions import VersionService
from bloom.membridge.settings import MembridgeSettings
from bloom.membridge.topics import LEADERSHIP
from bloom.server.maintenance import every, guarded
from bloom.server.membridge_examples import EXAMPLES, HEALTH, PARAMETERS
from bloom.web.auth import AdminKey
from bloom.web.body_limit import BodyLimitMiddleware
from bloom.web.development import DevelopmentGuardMiddleware
from bloom.web.disconnect import Stopping
from bloom.web.errors import UnexpectedErrorsMiddleware, install_error_handlers
from bloom.web.health import in_time
from bloom.web.openapi import describe
from bloom.web.proxies import ProxyHeadersMiddleware, parse_trusted_proxies
from bloom.web.request_context import RequestContextMiddleware
from bloom.web.security_headers import SecurityHeadersMiddleware

TIME_OUT_EVERY_SEC = 2.0
PUBLISH_AT_LEAST_EVERY_SEC = 5.0
"""The fallback for a lost notification, and what coalesced renewals wait for."""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The parts of one process of the control plane."""

    database: Database
    hub: Hub
    projects: ProjectService
    leadership: LeadershipService
    versions: VersionService
    jobs: JobService
    publisher: LeasePublisher | None


def build_control_plane(settings: MembridgeSettings) -> ControlPlane:
    """Wire the services; nothing connects yet. Raises ConfigurationError."""
    if settings.database_url is None:
        raise ConfigurationError("DATABASE_URL must name a PostgreSQL database (`bloom up` brings its own)")
    url = settings.database_url.get_secret_value()
    database = Database(url, size=settings.pool_size)
    hub = Hub(settings.listen_url.get_secret_value() if settings.listen_url else url)
    caller = AgentCaller(settings.agent_key.get_secret_value() if settings.agent_key else None)
    bucket = settings.open_bucket()
    return ControlPlane(
        database=database,
        hub=hub,
        projects=ProjectService(database),
        leadership=LeadershipService(database, lease_seconds=settings.lease_seconds),
        versions=VersionService(database),
        jobs=JobService(database, hub, caller, timeout_sec=settings.job_timeout_sec),
        publisher=None if bucket is None else LeasePublisher(database, bucket),
    )


async def maintain(plane: ControlPlane) -> None:
    """What a process does by the clock, until cancelled. Every replica does it; they share the work."""
    async with asyncio.TaskGroup() as group:
        group.create_task(every(TIME_OUT_EVERY_SEC, "timing out jobs", plane.jobs.time_out))
        if plane.publisher is not None:
            group.create_task(_publish_on_time(plane.publisher, plane.hub))


async def _publish_on_time(publisher: LeasePublisher, hub: Hub) -> None:
    with hub.subscribe(LEADERSHIP) as news:
        while True:
            await guarded("publishing leases", publisher.publish_due)
            await news.wait(PUBLISH_AT_LEAST_EVERY_SEC)


def build_membridge_app(settings: MembridgeSettings) -> tuple[FastAPI, Stopping]:
    """The ASGI application, and what to tell when the server stops. Raises ConfigurationError."""
    settings.require_key()
    plane = build_control_plane(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await plane.database.open()
        background = [
            asyncio.create_task(plane.hub.run(), name="hub"),
            asyncio.create_task(maintain(plane), name="maintenance"),
        ]
        try:
            yield
        finally:
            for task in background:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await plane.jobs.close()
            await plane.database.close()

    app = FastAPI(title="Membridge", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.control_plane = plane
    stopping = _install_web(app, settings)
    _add_health(app, plane, stopping)
    app.include_router(leadership_routes(plane.leadership))
    app.include_router(version_routes(plane.versions))
    app.include_router(project_routes(plane.projects))
    app.include_router(agent_routes(plane.projects, plane.jobs))
    app.include_router(job_routes(plane.jobs))
    app.include_router(audit_routes(plane.projects))
    describe(
        app,
        key_header="X-MEMBRIDGE-ADMIN",
        is_open=lambda method, path: path == "/health",
        is_limited=lambda method, path: path != "/health",
        examples=EXAMPLES,
        parameters=PARAMETERS,
    )
    app.openapi()
    return app, stopping


def _install_web(app: FastAPI, settings: MembridgeSettings) -> Stopping:
    """The middleware of `bloom.web`, in the order that `bloom.web.install` gives reasons for."""
    stopping = Stopping()
    install_error_handlers(app)
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)
    keys = (settings.membridge_admin_key, settings.previous_admin_key)
    if settings.membridge_admin_key is None:
        app.add_middleware(DevelopmentGuardMiddleware, api="/", key_name="MEMBRIDGE_ADMIN_KEY")
    else:
        admin = AdminKey(*(key.get_secret_value() for key in keys if key is not None))
        app.add_middleware(RequireAdminKeyMiddleware, key=admin)
    trusted = parse_trusted_proxies(settings.trusted_proxies)
    app.add_middleware(ProxyHeadersMiddleware, trusted=trusted, redirect_to_https=settings.production)
    app.add_middleware(UnexpectedErrorsMiddleware)
    app.add_middleware(SecurityHeadersMiddleware, api="/", strict_transport=settings.production)
    app.add_middleware(RequestContextMiddleware, stopping=stopping)
    return stopping


def _add_health(app: FastAPI, plane: ControlPlane, stopping: Stopping) -> None:
    @app.get("/health", tags=["health"], responses=HEALTH)
    async def health() -> Response:
        """Whether to send requests here; 503 when the database does not answer, and when the process was told to stop."""
        body: dict[str, object] = {"status": "ok", "service": "membridge-control-plane", "version": __version__}
        if stopping.begun:
            return JSONResponse({**body, "status": "stopping", "projects": None, "agents": None}, status_code=503)
        try:
            counts = await in_time(plane.projects.counts())
        except (BloomError, TimeoutError):
            return JSONResponse({**body, "status": "degraded", "projects": None, "agents": None}, status_code=503)
        return JSONResponse({**body, **counts})
