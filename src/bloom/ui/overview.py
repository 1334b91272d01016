"""The overview: what the fleet is doing, in ten seconds, and what needs a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.datastructures import QueryParams

from bloom.tasks.model import QueueGauges, TaskStatus
from bloom.tasks.service.activity import Activity, ActivityService
from bloom.tasks.service.tasks import TaskService
from bloom.ui.charts import bars
from bloom.ui.notices import N_
from bloom.ui.pages import Pages, Viewer
from bloom.upstream.health import LinkHealth
from bloom.workers.model import Worker
from bloom.workers.service import WorkerService

RECENT = 8
WAITS_TOO_LONG_SEC = 300.0
SHOWN_WORKERS = 50


@dataclass(frozen=True, slots=True)
class Trouble:
    """What needs a person: words with `{what}` in them, what that is, and where the remedy is."""

    kind: str
    words: str
    what: object
    path: str
    remedy: str


def overview_routes(
    pages: Pages,
    tasks: TaskService,
    activity: ActivityService,
    workers: WorkerService,
    membridge: LinkHealth,
) -> APIRouter:
    """The router at the root."""
    router = APIRouter(include_in_schema=False)

    async def load(query: QueryParams, viewer: Viewer) -> dict[str, Any]:
        known = await workers.all()
        lately = await activity.lately(day_began=viewer.day_began())
        queue = await tasks.queue_gauges()
        return {
            "by_status": queue.by_status,
            "workers": sorted(known, key=lambda worker: (worker.status == "offline", worker.id))[:SHOWN_WORKERS],
            "slots": sum(
                worker.max_concurrency for worker in known if worker.status == "online" and not worker.draining
            ),
            "busy": sum(worker.active_leases for worker in known),
            "known_workers": len(known),
            "tasks": await tasks.page(status=None, before=None, limit=RECENT),
            "oldest_sec": queue.oldest_queued_sec,
            "troubles": _troubles(queue, known, membridge),
            **_charts(lately),
            "spent": lately.spent,
        }

    pages.live_page(router, "/", "overview", load)
    return router


def _charts(lately: Activity) -> dict[str, Any]:
    minutes = lately.minutes
    waits = sum(each.waits for each in minutes)
    return {
        "throughput": bars([(("completed", each.completed), ("failed", each.failed)) for each in minutes]),
        "waiting": bars([(("waiting", each.wait_sec / each.waits if each.waits else 0),) for each in minutes]),
        "completed_in_hour": sum(each.completed for each in minutes),
        "failed_in_hour": sum(each.failed for each in minutes),
        "mean_wait_sec": sum(each.wait_sec for each in minutes) / waits if waits else None,
    }


def _troubles(queue: QueueGauges, workers: Sequence[Worker], membridge: LinkHealth) -> list[Trouble]:
    found: list[Trouble] = []
    if queue.oldest_queued_sec > WAITS_TOO_LONG_SEC:
        words = N_("A task has waited for {what}.")
        found.append(Trouble("wait", words, queue.oldest_queued_sec, "/workers", N_("See which workers take tasks")))
    if dead := queue.by_status[TaskStatus.DEAD]:
        words = N_("Tasks that used up their attempts: {what}")
        found.append(Trouble("dead", words, dead, "/tasks?status=dead", N_("Look and requeue")))
    if silent := [worker.id for worker in workers if worker.status == "offline"]:
        words = N_("Workers that are silent: {what}")
        named = ", ".join(silent[:5]) + (" …" if len(silent) > 5 else "")
        found.append(Trouble("worker", words, named, "/workers", N_("See when they were heard from")))
    if not workers:
        found.append(Trouble("none", N_("No worker is known yet."), "", "/workers", N_("Add a worker")))
    if waiting := queue.outputs_to_move:
        words = N_("The object store does not take outputs; they are kept in the database meanwhile: {what}")
        found.append(Trouble("store", words, waiting, "/settings", N_("Look at the storage")))
    state = membridge.fields()
    if not state["connected"] and state["consecutiveFailures"]:
        words = N_("Membridge does not answer: {what}")
        found.append(Trouble("membridge", words, state["lastError"], "/settings", N_("Look at the connection")))
    return found
