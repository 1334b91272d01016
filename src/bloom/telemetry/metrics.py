"""What a runtime process counts, for Prometheus; `docs/monitoring.md` explains each.

With several processes behind one address each writes its counts to files of `PROMETHEUS_MULTIPROC_DIR`, which the process above
them makes, and whichever is asked adds them up. What is true of the whole database is not counted here but read at the
scrape (`bloom.server.metrics`).
"""

import os
import re

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.multiprocess import (
    MultiProcessCollector,
    mark_process_dead,  # pyright: ignore[reportUnknownVariableType]
)
from prometheus_client.registry import Collector

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
OTHER = "other"
MOST_LABELS = 50
"""So many values of a label that comes from outside are told apart by a process; the rest is `other`."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
_NAME = re.compile(r"[A-Za-z0-9._:/@-]{1,64}")
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)
_LONG = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14_400, 86_400)

disable_created_metrics()  # a third of all series, and nobody draws them

_registry = CollectorRegistry()


class Names:
    """The values of one label that come from outside, few and readable: a new one beyond `MOST_LABELS`, or one that is no
    name, is `other`.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def bounded(self, value: object) -> str:
        """`value`, or `other`."""
        if not isinstance(value, str):
            return OTHER
        if value in self._known:
            return value
        if len(self._known) >= MOST_LABELS or not _NAME.fullmatch(value):
            return OTHER
        self._known.add(value)
        return value


CLAIMS = Counter("bloom_claims", "Claims answered, by whether they got a lease", ["outcome"], registry=_registry)
LEASES_GRANTED = Counter("bloom_leases_granted", "Leases granted, by claims and lease calls", registry=_registry)
LEASES_EXPIRED = Counter("bloom_leases_expired", "Leases reaped because nobody renewed them", registry=_registry)
ATTEMPTS_ENDED = Counter(
    "bloom_attempts_ended",
    "Runs that ended, by where their task went and the code of the report (lease_expired: no report came)",
    ["outcome", "code"],
    registry=_registry,
)
LEASE_SECONDS = Histogram(
    "bloom_lease_seconds", "From the grant of a lease to its end", ["end"], buckets=_LONG, registry=_registry
)
QUEUE_WAIT_SECONDS = Histogram(
    "bloom_queue_wait_seconds",
    "From the moment that a task could be claimed to its lease, by the database's clock",
    buckets=(*_SHORT[3:], *_LONG[7:]),
    registry=_registry,
)
WAKEUP_SECONDS = Histogram(
    "bloom_wakeup_seconds",
    "From the news that wakes a waiting claim to its lease",
    buckets=_SHORT[:-1],
    registry=_registry,
)
REQUEST_SECONDS = Histogram(
    "bloom_request_seconds",
    "Requests, by the template of their route and the class of their status; long polls and streams wait on purpose",
    ["method", "route", "status"],
    buckets=_SHORT,
    registry=_registry,
)
BATCH_SIZE = Histogram(
    "bloom_batch_size",
    "Items that shared a transaction, by kind",
    ["kind"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    registry=_registry,
)
TOKENS = Counter("bloom_tokens", "Tokens that reports name, by model", ["model"], registry=_registry)
COST_USD = Counter("bloom_cost_usd", "US dollars that reports name, by model", ["model"], registry=_registry)
STORE_WRITES = Counter(
    "bloom_object_store_writes", "Outputs written to the object store", ["outcome"], registry=_registry
)
POOL_CONNECTIONS = Gauge(
    "bloom_db_pool_connections",
    "Connections to PostgreSQL by use (busy, idle), and how many there may be (limit)",
    ["use"],
    multiprocess_mode="livesum",
    registry=_registry,
)
POOL_WAITING = Gauge(
    "bloom_db_pool_waiting",
    "Transactions that wait for a connection",
    multiprocess_mode="livesum",
    registry=_registry,
)

# Series that an alert waits for are there from the beginning: an increase from nothing is none.
for _outcome in ("granted", "empty"):
    CLAIMS.labels(_outcome)
for _outcome in ("ok", "failed"):
    STORE_WRITES.labels(_outcome)
ATTEMPTS_ENDED.labels("dead", "lease_expired")

CODES = Names()
MODELS = Names()

_requests: dict[tuple[str, str, int], Histogram] = {}


def observe_request(method: str, route: str | None, status: int, seconds: float) -> None:
    """Count a request that was answered. `route` is the template of its path, None where it met no route."""
    key = (method, route or OTHER, status // 100)
    if (child := _requests.get(key)) is None:
        shown = method if method in _METHODS else OTHER
        child = REQUEST_SECONDS.labels(shown, key[1], f"{key[2]}xx")
        if shown != OTHER:
            _requests[key] = child
    child.observe(seconds)


def in_several_processes() -> bool:
    """Whether this process shares its counts with others."""
    return MULTIPROCESS_DIR in os.environ


def forget_process(pid: int, directory: str) -> None:
    """A process that counted in `directory` has died: what it counted stays, what it used at that moment does not."""
    mark_process_dead(pid, directory)


class _Read(Collector):
    """Metrics that were read elsewhere."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def exposition(read: list[Metric]) -> bytes:
    """All counts of this process (or of all behind its address) and the metrics `read`, as Prometheus's text."""
    shown = CollectorRegistry()
    shown.register(_Read(read))
    if not in_several_processes():
        return generate_latest(shown) + generate_latest(_registry)
    MultiProcessCollector(shown)
    return generate_latest(shown)
