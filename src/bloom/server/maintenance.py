"""What a runtime process does by the clock: reap leases, mark silent workers, wake due tasks, fold counts, move outputs, sweep,
prune, seal and export the audit log, bring the workers that Membridge knows.

Every replica does it; each step locks what it takes with SKIP LOCKED, or claims it, so they share the work.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bloom.artifacts.service import ArtifactService
from bloom.audit.exporting import AuditExporter
from bloom.audit.model import RETENTION
from bloom.audit.sealing import AuditSealer
from bloom.base.errors import BloomError
from bloom.db.hub import CONNECTION, DUE, QUEUE, Hub
from bloom.tasks.service.activity import ActivityService
from bloom.tasks.service.holding import HoldingService
from bloom.tasks.service.retention import RetentionService
from bloom.tasks.service.tasks import TaskService
from bloom.tasks.service.uploading import UploadService
from bloom.upstream.syncing import SYNC_EVERY_SEC, WorkerSync

REAP_EVERY_SEC = 2.0
"""Well under the 15 seconds after expiry that the wire contract allows."""

MARK_SILENT_EVERY_SEC = 5.0
MOVE_EVERY_SEC = 15.0
SWEEP_EVERY_SEC = 60.0
FOLD_EVERY_SEC = 5.0
ACTIVITY_EVERY_SEC = 2.0
PRUNE_EVERY_SEC = 300.0
SEAL_EVERY_SEC = 5.0
LOOK_FOR_EXPORTS_EVERY_SEC = 15.0
"""Whether a file is due, or was left unwritten by another process."""

DUE_AT_LEAST_EVERY_SEC = 5.0
"""Also the fallback for a lost notification: whoever waits for a task looks again then."""

DUE_AT_MOST_EVERY_SEC = 0.02
"""However many tasks are created that wait for their time."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def maintain(
    tasks: TaskService,
    activity: ActivityService,
    holding: HoldingService,
    artifacts: ArtifactService,
    uploads: UploadService,
    retention: RetentionService,
    sync: WorkerSync,
    sealer: AuditSealer,
    exporter: AuditExporter | None,
    hub: Hub,
    *,
    retention_days: int,
) -> None:
    """Run all steps until cancelled, then export the rest of the audit log. A failing step is logged and tried again.
    `retention_days` 0: nothing is pruned. `exporter` None: nothing is exported.
    """

    async def wake_due() -> float:
        wait = await holding.promote_due()
        hub.wake(QUEUE)
        return DUE_AT_LEAST_EVERY_SEC if wait is None else min(max(wait, 0.0), DUE_AT_LEAST_EVERY_SEC)

    async def prune() -> None:
        if retention_days and (pruned := await retention.prune(retention_days, actor=RETENTION)):
            _log.info("old tasks pruned", extra={"count": sum(pruned.values())})

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(every(REAP_EVERY_SEC, "reaping", holding.reap))
            group.create_task(every(MARK_SILENT_EVERY_SEC, "marking silent workers", holding.mark_silent_workers))
            group.create_task(every(MOVE_EVERY_SEC, "moving outputs", artifacts.move_to_store))
            group.create_task(every(SWEEP_EVERY_SEC, "sweeping uploads", uploads.sweep))
            group.create_task(every(SWEEP_EVERY_SEC, "sweeping the object store", artifacts.sweep_store))
            group.create_task(every(SWEEP_EVERY_SEC, "deleting objects of pruned tasks", artifacts.delete_pruned))
            group.create_task(every(SWEEP_EVERY_SEC, "looking for lost turns", holding.pass_lost_turns))
            group.create_task(every(FOLD_EVERY_SEC, "folding counts", tasks.tidy_counts))
            group.create_task(every(ACTIVITY_EVERY_SEC, "folding activity", activity.fold))
            group.create_task(every(PRUNE_EVERY_SEC, "forgetting activity", activity.forget))
            group.create_task(every(PRUNE_EVERY_SEC, "pruning", prune))
            group.create_task(every(SEAL_EVERY_SEC, "sealing the audit log", sealer.seal))
            if exporter is not None:
                often = min(exporter.every_sec, LOOK_FOR_EXPORTS_EVERY_SEC)
                group.create_task(every(often, "exporting the audit log", exporter.export))
            group.create_task(_due_on_time(wake_due, hub))
            group.create_task(_sync_on_time(sync, hub))
    finally:
        if exporter is not None:
            await guarded("exporting the audit log", exporter.finish)


async def every(seconds: float, name: str, step: Callable[[], Awaitable[object]]) -> None:
    """Run `step` every `seconds`, until cancelled."""
    while True:
        await guarded(name, step)
        await asyncio.sleep(seconds)


async def _due_on_time(step: Callable[[], Awaitable[float]], hub: Hub) -> None:
    with hub.subscribe(DUE) as news:
        while True:
            wait = await guarded("looking for due tasks", step)
            await asyncio.sleep(DUE_AT_MOST_EVERY_SEC)
            await news.wait((DUE_AT_LEAST_EVERY_SEC if wait is None else wait) - DUE_AT_MOST_EVERY_SEC)


async def _sync_on_time(sync: WorkerSync, hub: Hub) -> None:
    with hub.subscribe(CONNECTION) as news:
        while True:
            wait = await guarded("syncing with Membridge", sync.step)
            await news.wait(SYNC_EVERY_SEC if wait is None else wait)


async def guarded(name: str, step: Callable[[], Awaitable[T]]) -> T | None:
    """The outcome of `step`, or None when it failed, which is logged."""
    try:
        return await step()
    except BloomError as error:
        _log.warning("%s failed, trying again", name, extra={"code": error.code})
    except Exception:  # noqa: BLE001 - a background loop outlives whatever happens in a step
        _log.exception("%s failed, trying again", name)
    return None
