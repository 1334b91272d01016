"""GET /metrics: what this process has counted, and what is true of the whole database at this moment.

Each replica tells the same of the database: dashboards and alerts take the `max` of it over replicas, and the `sum` of counts.
"""

import asyncio
import time

from fastapi import APIRouter, Request, Response
from fastapi.routing import iter_route_contexts
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.routing import BaseRoute
from starlette.types import Scope

from bloom import __version__
from bloom.base.errors import BloomError, Forbidden
from bloom.db.pool import Database
from bloom.server.maintenance import every
from bloom.tasks.model import HELD, QueueGauges, TaskStatus
from bloom.tasks.service.tasks import TaskService
from bloom.telemetry import metrics
from bloom.upstream.health import LinkHealth
from bloom.web.asgi import header, header_values, template_of
from bloom.web.auth import AdminKey
from bloom.web.errors import json_error
from bloom.web.openapi import streamed
from bloom.web.proxies import parse_address
from bloom.workers.service import WorkerService

READ_EVERY_SEC = 5.0
"""So often the database is read at most, however many ask."""

READ_SEC = 2.0
"""How long a scrape waits for the database; then it tells what it knows without it."""

MEASURE_EVERY_SEC = 5.0
LONGEST_LABELS = 256

_BEARER = b"bearer "
_FORWARDED = (b"x-forwarded-for", b"forwarded", b"x-real-ip")


class Gauges:
    """What is read at a scrape."""

    def __init__(
        self, database: Database, tasks: TaskService, workers: WorkerService, membridge: LinkHealth, *, has_store: bool
    ) -> None:
        self._database = database
        self._tasks = tasks
        self._workers = workers
        self._membridge = membridge
        self._has_store = has_store
        self._reading = asyncio.Lock()
        self._read: list[Metric] = []
        self._read_at: float | None = None

    async def measure(self) -> None:
        """Note how this process uses its pool."""
        usage = self._database.usage()
        for use, count in (("busy", usage.busy), ("idle", usage.idle), ("limit", usage.limit)):
            metrics.POOL_CONNECTIONS.labels(use).set(count)
        metrics.POOL_WAITING.set(usage.waiting)

    async def measure_forever(self) -> None:
        """The same by the clock, where another process may be the one that is asked."""
        if metrics.in_several_processes():
            await every(MEASURE_EVERY_SEC, "measuring", self.measure)

    async def exposition(self) -> bytes:
        """All metrics, as Prometheus's text."""
        await self.measure()
        async with self._reading:
            if self._read_at is None or time.monotonic() - self._read_at >= READ_EVERY_SEC:
                self._read = await self._read_database()
                self._read_at = time.monotonic()
            read = [*self._read, *self._link()]
        return await asyncio.to_thread(metrics.exposition, read)

    def _link(self) -> list[Metric]:
        build = GaugeMetricFamily("bloom_build_info", "1; the release is in the label", labels=["version"])
        build.add_metric([__version__], 1)
        store = int(self._has_store)
        return [
            build,
            _gauge("bloom_membridge_connected", "Whether Membridge last answered well", int(self._membridge.connected)),
            _gauge("bloom_membridge_failures", "Calls of Membridge that failed in a row", self._membridge.failures),
            _gauge("bloom_object_store_configured", "Whether outputs go to an object store", store),
        ]

    async def _read_database(self) -> list[Metric]:
        try:
            async with asyncio.timeout(READ_SEC):
                queue = await self._tasks.queue_gauges()
                workers = await self._workers.count_by_state()
        except (BloomError, TimeoutError):
            return [_gauge("bloom_database_up", "Whether PostgreSQL answers", 0)]
        states = GaugeMetricFamily("bloom_workers", "Workers by what they say", labels=["state", "draining"])
        slots = GaugeMetricFamily("bloom_worker_slots", "Slots of workers by their state", labels=["state", "draining"])
        for row in workers:
            labels = [row["status"], str(row["draining"]).lower()]
            states.add_metric(labels, row["workers"])
            slots.add_metric(labels, row["slots"])
        return [_gauge("bloom_database_up", "Whether PostgreSQL answers", 1), states, slots, *_queue_metrics(queue)]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _queue_metrics(queue: QueueGauges) -> list[Metric]:
    tasks = GaugeMetricFamily("bloom_tasks", "Tasks in each state", labels=["state"])
    for status in TaskStatus:
        tasks.add_metric([status.value], queue.by_status[status])
    depth = GaugeMetricFamily(
        "bloom_queue_depth", "Queued tasks, by what they wait for", labels=["waits_for", "labels"]
    )
    oldest = GaugeMetricFamily(
        "bloom_queue_oldest_seconds", "How long the oldest claimable task waits", labels=["labels"]
    )
    # Sets of labels that read the same are one series: a second one of its name would make the whole scrape void.
    waiting: dict[str, tuple[int, float]] = {metrics.OTHER: (queue.others, 0.0)}
    for found in queue.waiting:
        labels = ",".join(found.labels)[:LONGEST_LABELS]
        count, seconds = waiting.get(labels, (0, 0.0))
        waiting[labels] = (count + found.tasks, max(seconds, found.oldest_sec))
    for labels, (count, seconds) in waiting.items():
        depth.add_metric(["worker", labels], count)
        oldest.add_metric([labels], seconds)
    depth.add_metric(["time", ""], queue.scheduled)
    depth.add_metric(["turn", ""], queue.without_turn)
    ages = GaugeMetricFamily(
        "bloom_oldest_task_seconds", "How long the oldest task has been due, or held under one lease", labels=["state"]
    )
    ages.add_metric(["queued"], queue.oldest_queued_sec)
    ages.add_metric(["held"], queue.oldest_held_sec)
    held = sum(queue.by_status[status] for status in HELD)
    return [
        tasks,
        depth,
        oldest,
        ages,
        _gauge("bloom_leases_active", "Leases that are held", held),
        _gauge("bloom_outputs_to_move", "Outputs in PostgreSQL that wait for the object store", queue.outputs_to_move),
    ]


def metrics_routes(gauges: Gauges, key: str | None) -> APIRouter:
    """The router of /metrics; `key` is what a scrape has to show, None: only this machine may ask."""
    router = APIRouter(tags=["metrics"])
    ring = None if key is None else AdminKey(key)

    @router.get("/metrics", response_class=Response, responses=streamed("text/plain", "bloom_workers 2\n"))
    async def scrape(request: Request) -> Response:
        """The metrics of this process and its database, for Prometheus."""
        if ring is None:
            if not _is_local(request.scope):
                raise Forbidden(
                    "Without BLOOM_METRICS_KEY the metrics are for this machine alone; set it, and show it."
                )
        else:
            given = header(request.scope, b"authorization") or b""
            if given[: len(_BEARER)].lower() != _BEARER or await ring.find(given[len(_BEARER) :].strip()) is None:
                text = "The metrics need `Authorization: Bearer` with the key of BLOOM_METRICS_KEY"
                refusal = json_error(401, "unauthorized", text)
                refusal.headers["WWW-Authenticate"] = "Bearer"
                return refusal
        return Response(await gauges.exposition(), media_type=CONTENT_TYPE_LATEST)

    return router


def _is_local(scope: Scope) -> bool:
    """Whether the client is this machine. One that came through a proxy is only where a trusted one has told its address (port
    0): what any other wrote is no proof.
    """
    client: tuple[str, int] | None = scope.get("client")
    if client is None:
        return True  # a Unix socket
    if client[1] != 0 and any(header_values(scope, name) for name in _FORWARDED):
        return False
    address = parse_address(client[0])
    return address is not None and address.is_loopback


class RequestObserver:
    """Counts requests by the template of their route, never by their path."""

    def __init__(self) -> None:
        self._templates: dict[int, str] = {}

    def learn(self, routes: list[BaseRoute]) -> None:
        """Know the routes of the framework, which tells of a request only the route below its router's prefix."""
        for found in iter_route_contexts(routes):
            if found.path is not None:
                self._templates[id(found.original_route)] = found.path

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """See `ObserveRequest`."""
        template = template_of(scope) or self._templates.get(id(scope.get("route")))
        metrics.observe_request(scope["method"], template, status, seconds)
