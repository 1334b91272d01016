"""The page of one task: what it is, how it goes, what came of it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from bloom.artifacts.service import ArtifactService
from bloom.audit.model import AuditFilter
from bloom.audit.service import AuditService
from bloom.base.ids import ResultId, TaskId
from bloom.db.hub import task_topic
from bloom.tasks.model import FINAL, HELD, Attempt, RejectedResult, Result, Task, TaskStatus
from bloom.tasks.service.following import FollowService
from bloom.tasks.service.tasks import TaskService
from bloom.ui.formatting import seconds_between
from bloom.ui.live import merged
from bloom.ui.markdown import render_markdown
from bloom.ui.pages import Pages, Viewer
from bloom.ui.run_log import pieces_of
from bloom.ui.tasks import readable_task_id
from bloom.web.sse import SseEvent, event_stream, last_event_id

SHOWN_CHARS = 64 * 1024
"""So much of what was said stands in the page; all of it has pages of its own."""

PROMPT_CHARS = 32 * 1024
PROMPT_FOLDED_CHARS = 600
_EVENTS = 1000
_LOG_PAGE = 500
_ARTIFACTS = 10
_AUDIT = 100
_LOOK_SEC = 30.0
"""Whatever concerns a task is announced; a lost announcement costs so long."""

_MOST_NODES = 2000


@dataclass(frozen=True, slots=True)
class Try:
    """An attempt as the page tells it."""

    number: int
    attempt: Attempt
    report: Result | RejectedResult | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class TaskServices:
    """What the page is made from."""

    tasks: TaskService
    following: FollowService
    artifacts: ArtifactService
    audit: AuditService


def task_routes(pages: Pages, services: TaskServices) -> APIRouter:
    """The router at the root."""
    router = APIRouter(include_in_schema=False)
    tasks = services.tasks

    async def load(task_id: TaskId) -> dict[str, Any]:
        task, attempts = await tasks.get(task_id), await tasks.attempts(task_id)
        results, rejected = await tasks.results(task_id), await tasks.rejected_results(task_id)
        tries = _tries(attempts, [*rejected, *results])
        last = results[-1] if results else None
        return {
            "task": task,
            "tries": tries,
            "answer": await _answer(task, last) if last and task.status is TaskStatus.COMPLETED else None,
            "failure": last if last and task.status in (TaskStatus.FAILED, TaskStatus.DEAD) else None,
            "metrics": last.metrics if last else {},
            "artifacts": await services.artifacts.page(task_id=task_id, before=None, limit=_ARTIFACTS),
            "entries": await services.audit.page(
                AuditFilter(entity_type="task", entity_id=task_id), before=None, limit=_AUDIT
            ),
            "may_cancel": task.status not in FINAL and task.cancel_requested_at is None,
            "may_requeue": task.status in FINAL and task.status is not TaskStatus.COMPLETED,
            "is_held": task.status in HELD,
        }

    @router.get("/tasks/{task_id}")
    async def whole(request: Request, task_id: str) -> Response:
        known = readable_task_id(task_id)
        context = await load(known)
        said = await tasks.newest_events(known, chars=SHOWN_CHARS, limit=_EVENTS)
        attempts = [each.attempt for each in context["tries"]]
        return pages.page(
            request,
            "task.html",
            live_url=pages.url(f"/live/tasks/{known}"),
            prompt=context["task"].prompt[:PROMPT_CHARS],
            prompt_folds=len(context["task"].prompt) > PROMPT_FOLDED_CHARS,
            said=pieces_of(said, attempts, pages.viewer(request).language),
            said_to=said[-1].id if said else 0,
            said_before=bool(said) and said[0].id > 1,
            **context,
        )

    @router.get("/live/tasks/{task_id}")
    async def live(request: Request, task_id: str) -> Response:
        known, viewer = readable_task_id(task_id), pages.viewer(request)
        await tasks.get(known)

        async def render() -> str:
            return pages.render("task_region.html", viewer, form_token=None, said=None, **await load(known))

        key = ("task", known, viewer.language.code, viewer.role)
        states = pages.regions.follow(key, render, every_sec=_LOOK_SEC, topic=task_topic(known))
        after = _event_id(last_event_id(request) or request.query_params.get("after"))
        return event_stream(merged(pages.region_events(states), said_events(known, viewer, after)))

    async def said_events(task_id: TaskId, viewer: Viewer, after: int) -> AsyncGenerator[SseEvent, None]:
        shown = await tasks.events(task_id, after=after - 1, limit=1) if after else []
        lease = shown[0].lease_id if shown else None
        async with aclosing(services.following.read_along(task_id, after=after)) as batches:
            async for batch in batches:
                pieces = pieces_of(batch, await tasks.attempts(task_id), viewer.language, after=lease)
                lease = batch[-1].lease_id
                html = pages.render("run_log.html", viewer, pieces=pieces)
                yield SseEvent(text=html, id=str(batch[-1].id), event="said")

    @router.get("/tasks/{task_id}/run")
    async def run(request: Request, task_id: str) -> Response:
        """All that was said, page by page."""
        known = readable_task_id(task_id)
        after = _event_id(request.query_params.get("after"))
        events = await tasks.events(known, after=after, limit=_LOG_PAGE)
        attempts = await tasks.attempts(known)
        return pages.page(
            request,
            "run.html",
            task_id=known,
            after=after,
            pieces=pieces_of(events, attempts, pages.viewer(request).language),
            following=events[-1].id if len(events) == _LOG_PAGE else None,
        )

    @router.get("/tasks/{task_id}/prompt")
    async def prompt(task_id: str) -> Response:
        task = await tasks.get(readable_task_id(task_id))
        return _download(_once(task.prompt), f"prompt-{task.id}.txt")

    @router.get("/tasks/{task_id}/results/{result_id}")
    async def output(task_id: str, result_id: str) -> Response:
        """All that is kept of an output, to be saved as a file."""
        known = readable_task_id(task_id)
        result = await tasks.result(known, ResultId(readable_task_id(result_id)))
        name = f"result-{result.id}.txt"
        artifact_id = result.artifact_id if isinstance(result, Result) else None
        if artifact_id is None:
            return _download(_once(result.output or ""), name)
        pieces = services.artifacts.content(await services.artifacts.get(artifact_id))
        # Taken before the answer begins, so that a store that is down is an error page and not a cut file.
        return _download(_from(await anext(pieces, b""), pieces), name)

    @router.post("/tasks/{task_id}/cancel")
    async def cancel(request: Request, task_id: str) -> Response:
        await pages.form(request)
        task = await tasks.cancel(readable_task_id(task_id), actor=pages.viewer(request).name)
        return pages.go(f"/tasks/{task.id}", notice="task_cancelled")

    @router.post("/tasks/{task_id}/requeue")
    async def requeue(request: Request, task_id: str) -> Response:
        await pages.form(request)
        task = await tasks.requeue(readable_task_id(task_id), actor=pages.viewer(request).name)
        return pages.go(f"/tasks/{task.id}", notice="task_requeued")

    return router


def _tries(attempts: Sequence[Attempt], reports: Sequence[Result | RejectedResult]) -> list[Try]:
    of_lease = {report.lease_id: report for report in reports}
    return [
        Try(number, each, of_lease.get(each.lease_id), seconds_between(each.started_at, each.ended_at))
        for number, each in enumerate(attempts, 1)
    ]


async def _answer(task: Task, result: Result) -> Mapping[str, Any]:
    """A result with its output as JSON or Markdown, where it is short enough and is such."""
    text = result.output or ""
    tree: Any = None
    if task.desired_format == "json" and not result.truncated:
        tree = _json(text)
    # In a thread: what a model wrote may take long.
    html = await asyncio.to_thread(render_markdown, text) if tree is None else None
    return {"result": result, "text": text, "html": html, "json": tree}


def _json(text: str) -> Any:
    """The value that `text` is, in a list; None for what is none, or too much to be unfolded."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if text.count(",") + text.count("{") + text.count("[") > _MOST_NODES else [value]


def _event_id(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) <= 18 else 0


async def _once(text: str) -> AsyncGenerator[bytes, None]:
    yield text.encode(errors="replace")


async def _from(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


def _download(content: AsyncGenerator[bytes, None], name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(content, media_type="text/plain; charset=utf-8", headers=headers)
