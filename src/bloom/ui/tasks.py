"""The list of tasks: filters, pages, and what is done to several at once."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from starlette.datastructures import QueryParams

from bloom.base.errors import BloomError, Conflict, InvalidInput, NotFound
from bloom.base.ids import TaskId
from bloom.base.text import is_storable
from bloom.tasks.model import FINAL, TaskFilter, TaskStatus
from bloom.tasks.service.tasks import REACH, TaskService
from bloom.ui.pages import Pages, Viewer, own_path, text_of

PAGE = 50
_LONGEST = 512
_FILTERS = ("status", "agent", "context", "worker", "label", "text")
_REQUEUEABLE = FINAL - {TaskStatus.COMPLETED}


def task_list_routes(pages: Pages, tasks: TaskService) -> APIRouter:
    """The router at the root."""
    router = APIRouter(include_in_schema=False)

    async def load(query: QueryParams, viewer: Viewer) -> Mapping[str, Any]:
        filters = {name: value for name in _FILTERS if (value := query.get(name, "").strip())}
        before = query.get("before")
        search = await tasks.search(_wanted(filters), before=_number("before", before), limit=PAGE)
        return {
            "filters": filters,
            "before": before,
            "back": f"/tasks?{urlencode(filters | ({'before': before} if before else {}))}",
            "search": search,
            "reach": REACH,
            "counts": (await tasks.stats())["tasks"]["by_status"],
            "cancellable": set(TaskStatus) - FINAL,
            "requeueable": _REQUEUEABLE,
            "outcome": {name: _number(name, query.get(name)) or 0 for name in ("changed", "refused")},
            "what": query.get("what"),
        }

    pages.live_page(router, "/tasks", "tasks", load)

    @router.post("/tasks/change")
    async def change(request: Request) -> Response:
        """Cancel or requeue those that were ticked, each by itself."""
        sent = await pages.form(request)
        actor, what = pages.viewer(request).name, text_of(sent, "what")
        act = {"cancel": tasks.cancel, "requeue": tasks.requeue}.get(what)
        if act is None:
            raise InvalidInput("Must be cancel or requeue", fields={"what": ["Must be cancel or requeue"]})
        changed = refused = 0
        for task_id in {value for value in sent.getlist("id") if isinstance(value, str)}:
            try:
                await act(readable_task_id(task_id), actor=actor)
            except (NotFound, Conflict):
                refused += 1
            else:
                changed += 1
        return pages.go(own_path(text_of(sent, "back"), "/tasks"), what=what, changed=changed, refused=refused)

    return router


def readable_task_id(text: str) -> TaskId:
    """`text` as an id. Raises NotFound for what nothing can have for its id."""
    if len(text) > _LONGEST or not is_storable(text):
        raise NotFound("There is no such task.", code="task_not_found")
    return TaskId(text)


def _wanted(filters: Mapping[str, str]) -> TaskFilter:
    for name, value in filters.items():
        if len(value) > _LONGEST or not is_storable(value):
            raise _invalid(name, f"Must be text of at most {_LONGEST} characters")
    given: dict[str, Any] = dict(filters)
    if (status := filters.get("status")) is not None:
        if status not in set(TaskStatus):
            raise _invalid("status", f"Must be one of {', '.join(TaskStatus)}")
        given["status"] = TaskStatus(status)
    return TaskFilter(**given)


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise _invalid(name, "Must be a whole number")
    return int(text)


def _invalid(name: str, words: str) -> BloomError:
    return InvalidInput(words, fields={name: [words]})
