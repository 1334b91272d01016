"""What a daemon before this one left in the spool: children are ended, reports delivered, the rest handed back."""

import asyncio
import logging

from bloom.worker.child import end_strays
from bloom.worker.clocks import now_ms
from bloom.worker.completion import failure
from bloom.worker.runs import Run
from bloom.worker.spool import Spool

log = logging.getLogger("bloom.worker")


async def recover(spool: Spool) -> list[Run]:
    """The runs found in `spool`, each over and with a report. When this returns none of their children lives.

    A run without a report was cut off by the end of its daemon: its task goes back to the queue. The runtime counts such
    deaths (code `worker_died`), so that a task which kills its workers does not come back for ever. Raises OSError where
    the spool cannot be read.
    """
    runs: list[Run] = []
    for spooled in await asyncio.to_thread(spool.leftovers):
        ended = await end_strays(spooled.entry.lease_id)
        whole = await asyncio.to_thread(spooled.read_report) is not None
        told = {"task": spooled.entry.task_id, "lease": spooled.entry.lease_id, "ended_processes": ended}
        if whole:
            log.info("found a report that was not delivered", extra=told)
        else:
            log.warning("found a run that was cut off; its task is handed back", extra=told)
            message = "the worker's daemon was killed while the task ran"
            completion = failure(spooled.entry, "worker_died", message, hand_back=True)
            await asyncio.to_thread(spooled.write_report, completion, now_ms())
        run = Run(spooled, None, ttl_sec=0)
        run.has_report = True
        run.reported.set()
        runs.append(run)
    return runs
