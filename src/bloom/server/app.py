"""Composition root of the runtime: which service gets what, and what lives as long as the process."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from fastapi import FastAPI, Response

from bloom import __version__
from bloom.artifacts.routes import artifact_routes
from bloom.artifacts.service import ArtifactService
from bloom.audit.exporting import AuditExporter
from bloom.audit.routes import audit_routes
from bloom.audit.sealing import AuditSealer
from bloom.audit.service import AuditService
from bloom.base.errors import BloomError, ConfigurationError, Unavailable
from bloom.base.settings import ServerSettings
from bloom.blobs.interface import BlobStore
from bloom.blobs.open import open_blob_store
from bloom.db.hub import Hub
from bloom.db.pool import Database
from bloom.keys.ring import NamedKeyRing
from bloom.keys.routes import key_routes
from bloom.keys.service import KeyService
from bloom.server.access import API, MEMBRIDGE, RULES
from bloom.server.examples import EXAMPLES, HEALTH, PARAMETERS
from bloom.server.maintenance import maintain
from bloom.server.metrics import Gauges, RequestObserver, metrics_routes
from bloom.tasks.routes.clients import client_routes
from bloom.tasks.routes.outputs import is_upload, output_routes
from bloom.tasks.routes.reading import reading_routes
from bloom.tasks.routes.streams import stream_routes
from bloom.tasks.routes.workers import work_routes
from bloom.tasks.service.activity import ActivityService
from bloom.tasks.service.completing import CompletionService
from bloom.tasks.service.following import FollowService
from bloom.tasks.service.granting import GrantService
from bloom.tasks.service.holding import HoldingService
from bloom.tasks.service.removal import WorkerRemovalService
from bloom.tasks.service.retention import RetentionService
from bloom.tasks.service.tasks import TaskService
from bloom.tasks.service.uploading import UploadService
from bloom.telemetry.tracing import begin_tracing, end_tracing
from bloom.ui.error_pages import ErrorPagesMiddleware
from bloom.ui.live import LiveRegions
from bloom.ui.pages import Pages
from bloom.ui.routes import Services, ui_routes
from bloom.upstream.client import MembridgeClient
from bloom.upstream.health import LinkHealth
from bloom.upstream.looking import MembridgeService
from bloom.upstream.model import Environment
from bloom.upstream.routes import config_routes, proxy_routes
from bloom.upstream.sealing import Sealer
from bloom.upstream.service import ConnectionService, environment_of
from bloom.upstream.syncing import WorkerSync
from bloom.web.answers import JsonAnswer
from bloom.web.auth import AdminKey, KeyRings, is_guarded
from bloom.web.base_path import parse_base_path
from bloom.web.disconnect import Stopping
from bloom.web.health import in_time
from bloom.web.install import install_web
from bloom.web.openapi import describe
from bloom.web.sessions import Sessions
from bloom.web.sign_in import SignInAttempts
from bloom.workers.routes import worker_routes
from bloom.workers.service import SignsOfLife, WorkerService


@dataclass(frozen=True, slots=True)
class Runtime:
    """The parts of one runtime process."""

    database: Database
    hub: Hub
    audit: AuditService
    ring: NamedKeyRing
    keys: KeyService
    workers: WorkerService
    artifacts: ArtifactService
    tasks: TaskService
    activity: ActivityService
    granting: GrantService
    holding: HoldingService
    completing: CompletionService
    uploading: UploadService
    removal: WorkerRemovalService
    retention: RetentionService
    following: FollowService
    connections: ConnectionService
    worker_sync: WorkerSync


def build_runtime(
    database_url: str,
    *,
    listen_url: str | None,
    pool_size: int,
    blobs: BlobStore | None,
    max_output_bytes: int,
    sealer: Sealer,
    membridge: Environment,
) -> Runtime:
    """Wire the services; nothing connects yet. `listen_url` goes around a transaction pooler."""
    database = Database(database_url, size=pool_size)
    hub = Hub(listen_url or database_url)
    ring = NamedKeyRing(database, hub)
    artifacts = ArtifactService(database, blobs)
    tasks = TaskService(database)
    signs = SignsOfLife(database)
    workers = WorkerService(database)
    client = MembridgeClient()
    connections = ConnectionService(database, client, sealer, membridge, LinkHealth())
    return Runtime(
        database=database,
        hub=hub,
        audit=AuditService(database, hub),
        ring=ring,
        keys=KeyService(database, ring),
        workers=workers,
        artifacts=artifacts,
        tasks=tasks,
        activity=ActivityService(database),
        granting=GrantService(database, hub),
        holding=HoldingService(database, signs),
        completing=CompletionService(database, artifacts, signs),
        uploading=UploadService(database, signs, max_bytes=max_output_bytes),
        removal=WorkerRemovalService(database),
        retention=RetentionService(database, artifacts),
        following=FollowService(tasks, hub),
        connections=connections,
        worker_sync=WorkerSync(database, client, connections, workers),
    )


def build_app(settings: ServerSettings) -> tuple[FastAPI, Stopping]:
    """The ASGI application, and what to tell when the server stops.

    Raises ConfigurationError for settings that do not fit together.
    """
    if settings.database_url is None:
        raise ConfigurationError("DATABASE_URL must name a PostgreSQL database (`bloom up` brings its own)")
    if settings.production and settings.api_key is None and not settings.allow_no_auth:
        raise ConfigurationError(
            "RUNTIME_API_KEY must be set in production (or BLOOM_ALLOW_NO_AUTH=1 to serve without a key)"
        )
    if settings.api_key is None and settings.previous_api_key is not None:
        raise ConfigurationError("RUNTIME_API_KEY_PREVIOUS is set, so RUNTIME_API_KEY must be set too")
    listen_url = settings.listen_url.get_secret_value() if settings.listen_url else None
    blobs = open_blob_store(settings)
    sealer = sealer_of(settings)
    runtime = build_runtime(
        settings.database_url.get_secret_value(),
        listen_url=listen_url,
        pool_size=settings.pool_size,
        blobs=blobs,
        max_output_bytes=settings.max_output_bytes,
        sealer=sealer,
        membridge=environment_of(settings),
    )

    audit_sealer = AuditSealer(runtime.database)
    exporter = (
        AuditExporter(runtime.database, audit_sealer, blobs, every_sec=settings.audit_export_sec)
        if blobs is not None and settings.audit_export
        else None
    )
    gauges = Gauges(
        runtime.database,
        runtime.tasks,
        runtime.workers,
        runtime.connections.health,
        has_store=runtime.artifacts.has_store,
    )
    begin_tracing(settings.otlp_endpoint, "bloom-runtime")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await runtime.database.open()
        background = [
            asyncio.create_task(runtime.hub.run(), name="hub"),
            asyncio.create_task(runtime.ring.follow(), name="keys"),
            asyncio.create_task(runtime.granting.watch.run(), name="claims"),
            asyncio.create_task(gauges.measure_forever(), name="measuring"),
            asyncio.create_task(
                maintain(
                    runtime.tasks,
                    runtime.activity,
                    runtime.holding,
                    runtime.artifacts,
                    runtime.uploading,
                    runtime.retention,
                    runtime.worker_sync,
                    audit_sealer,
                    exporter,
                    runtime.hub,
                    retention_days=settings.retention_days,
                ),
                name="maintenance",
            ),
        ]
        try:
            yield
        finally:
            for task in background:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await runtime.database.close()
            await asyncio.to_thread(end_tracing)

    app = FastAPI(
        title="BLOOM Runtime",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/runtime/openapi.json",
    )
    app.state.runtime = runtime
    routers = (
        client_routes(runtime.tasks),
        reading_routes(runtime.tasks, runtime.holding),
        stream_routes(runtime.tasks, runtime.following),
        work_routes(runtime.granting, runtime.holding, runtime.completing, runtime.removal),
        output_routes(runtime.uploading, runtime.holding),
        worker_routes(runtime.workers),
        artifact_routes(runtime.artifacts),
        audit_routes(runtime.audit),
        config_routes(runtime.connections),
        key_routes(runtime.keys, asked_for=settings.auth_required),
    )
    keys = _key_ring(settings, runtime)
    sessions = _sessions(settings, sealer)
    attempts = SignInAttempts()
    observer = RequestObserver()
    stopping = install_web(
        app,
        settings,
        keys=keys,
        attempts=attempts,
        rules=RULES,
        require_held=runtime.holding.require_held,
        exempt_body=is_upload,
        direct=(API, routers),
        sessions=sessions,
        observe=observer.observe,
    )
    for router in routers:
        app.include_router(router, prefix=API)
    app.include_router(proxy_routes(runtime.connections), prefix=MEMBRIDGE)
    _add_pages(app, settings, runtime, sessions, keys, attempts)
    app.include_router(
        metrics_routes(gauges, settings.metrics_key.get_secret_value() if settings.metrics_key else None)
    )
    _add_health(app, runtime, stopping)
    describe(
        app,
        key_header="X-Runtime-API-Key",
        is_open=lambda method, path: not is_guarded(method, path),
        is_limited=lambda method, path: path.startswith("/api/") and path != f"{API}/health",
        examples=EXAMPLES,
        parameters=PARAMETERS,
    )
    # The framework makes up its routes at the first request that meets them; better now than in somebody's request.
    observer.learn(app.routes)
    return app, stopping


def _key_ring(settings: ServerSettings, runtime: Runtime) -> KeyRings | None:
    """The keys that are taken; None in development mode, which asks nobody for one."""
    if settings.api_key is None:
        return None
    return KeyRings(AdminKey(*settings.admin_keys), runtime.ring)


def sealer_of(settings: ServerSettings) -> Sealer:
    """What keeps the secrets of this installation."""
    return Sealer(settings.data_dir, settings.secret_key.get_secret_value() if settings.secret_key else None)


def _sessions(settings: ServerSettings, sealer: Sealer) -> Sessions:
    try:
        secret = sealer.derive("sessions")
    except Unavailable as error:
        raise ConfigurationError(error.message) from None
    return Sessions(secret, None if settings.api_key is None else settings.api_key.get_secret_value())


def _add_pages(
    app: FastAPI,
    settings: ServerSettings,
    runtime: Runtime,
    sessions: Sessions,
    keys: KeyRings | None,
    attempts: SignInAttempts,
) -> None:
    pages = Pages(
        base=parse_base_path(settings.base_path),
        sessions=sessions,
        asks_for_keys=keys is not None,
        regions=LiveRegions(runtime.hub, runtime.audit.last_id),
    )
    services = Services(
        tasks=runtime.tasks,
        activity=runtime.activity,
        workers=runtime.workers,
        removal=runtime.removal,
        holding=runtime.holding,
        artifacts=runtime.artifacts,
        audit=runtime.audit,
        keys=runtime.keys,
        connections=runtime.connections,
        membridge=MembridgeService(runtime.connections),
        database=runtime.database,
        following=runtime.following,
    )
    app.include_router(ui_routes(pages, services, keys, attempts))
    app.add_middleware(ErrorPagesMiddleware, pages=pages)


def _add_health(app: FastAPI, runtime: Runtime, stopping: Stopping) -> None:
    started = time.monotonic()

    @app.get(f"{API}/health", tags=["health"], responses=HEALTH)
    async def health() -> Response:
        """Whether to send requests here; 503 when the database does not answer, and when the process was told to stop."""
        body: dict[str, object] = {
            "status": "ok",
            "service": "bloom-runtime",
            "version": __version__,
            "uptime": int(time.monotonic() - started),
            "storage": "postgresql",
            "membridge": runtime.connections.health.fields(),
        }
        if stopping.begun:
            return JsonAnswer({**body, "status": "stopping"}, status_code=503)
        try:
            await in_time(runtime.database.look())
        except (BloomError, TimeoutError):
            return JsonAnswer({**body, "status": "degraded"}, status_code=503)
        return JsonAnswer(body)
