"""The form for a new task: everything that `CreateTask` takes, checked by it."""

import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from bloom.base.clock import to_ms
from bloom.base.errors import Conflict
from bloom.base.ids import new_request_id
from bloom.tasks.model import Task
from bloom.tasks.schemas import CreateTask
from bloom.tasks.service.tasks import TaskService
from bloom.ui.moments import moment_of
from bloom.ui.pages import Pages, text_of
from bloom.ui.problems import say_problems
from bloom.ui.tasks import readable_task_id
from bloom.web.sessions import cookie, read_cookie
from bloom.web.validation import describe_problems

LAST_VALUES_COOKIE = "bloom_new_task"
_LONGEST_COOKIE = 3000
_KEPT_SEC = 90 * 86_400

DEFAULTS: Mapping[str, str] = {
    "prompt": "",
    "agent_slug": "default",
    "context_id": "",
    "context_hints": "",
    "desired_format": "text",
    "timeout_sec": "600",
    "budget": "0",
    "max_attempts": "3",
    "priority": "0",
    "run_at": "",
    "offset": "",
    "labels": "",
    "concurrency_key": "",
    "retry_base_sec": "2",
    "retry_max_sec": "300",
    "idempotency_key": "",
}
_NOT_KEPT = frozenset({"prompt", "run_at", "offset", "idempotency_key"})
_FIELD_OF = {
    "policy.timeout_sec": "timeout_sec",
    "policy.budget": "budget",
    "retry.base_sec": "retry_base_sec",
    "retry.max_sec": "retry_max_sec",
}
FOLDED = frozenset(DEFAULTS) - {"prompt", "agent_slug", "context_id", "desired_format", "offset"}
"""Fields that few need."""


def new_task_routes(pages: Pages, tasks: TaskService) -> APIRouter:
    """The router at the root. `?from=` names a task that the form begins with."""
    router = APIRouter(include_in_schema=False)

    def shown(request: Request, values: Mapping[str, str], problems: Mapping[str, list[str]], status: int) -> Response:
        told = say_problems(pages.viewer(request).language, problems)
        # The key of its own is no reason to unfold what few need.
        unfolds = any(values[name] != DEFAULTS[name] for name in FOLDED - {"idempotency_key"}) or FOLDED & told.keys()
        return pages.page(request, "new_task.html", status=status, values=values, problems=told, unfolds=bool(unfolds))

    @router.get("/tasks/new")
    async def form(request: Request) -> Response:
        values = {**DEFAULTS, **_last_values(request)}
        if source := request.query_params.get("from"):
            values |= _values_of(await tasks.get(readable_task_id(source)))
        return shown(request, {**values, "idempotency_key": new_request_id()}, {}, 200)

    @router.post("/tasks/new")
    async def create(request: Request) -> Response:
        sent = await pages.form(request, files=1)
        values = {name: text_of(sent, name) if name in sent else default for name, default in DEFAULTS.items()}
        values["prompt"], problems = await _prompt(sent)
        try:
            wanted = CreateTask.model_validate(_body(values))
        except ValidationError as error:
            described: dict[str, list[str]] = describe_problems(error.errors())["fieldErrors"]
            problems = {_FIELD_OF.get(path, path.split(".")[0]): texts for path, texts in described.items()} | problems
            if "run_at" in problems:
                problems["run_at"] = ["Must be a date and a time"]
        else:
            if not problems:
                try:
                    created = await tasks.create(wanted, actor=pages.viewer(request).name)
                except Conflict as error:
                    problems = {"idempotency_key": ["This key was used for another task; take a new one"]}
                    if error.code != "idempotency_key_reused":
                        raise
                else:
                    answer = pages.go(f"/tasks/{created.task.id}", notice="task_created")
                    _keep_values(request, answer, values, path=pages.base)
                    return answer
        return shown(request, values, problems, 400)

    return router


async def _prompt(sent: FormData) -> tuple[str, dict[str, list[str]]]:
    """The prompt, typed or as a file, and what is wrong with it."""
    typed, file = text_of(sent, "prompt"), sent.get("prompt_file")
    if not isinstance(file, UploadFile) or not file.filename:
        return typed, {}
    try:
        text = (await file.read()).decode("utf-8-sig")
    except UnicodeDecodeError:
        return typed, {"prompt_file": ["Must be a text file in UTF-8"]}
    finally:
        await file.close()
    if typed.strip():
        return typed, {"prompt_file": ["Type the prompt or choose a file, not both"]}
    return text, {}


def _body(values: Mapping[str, str]) -> dict[str, Any]:
    key = values["idempotency_key"].strip()
    # From the key, so that a form that is sent twice asks for the same task.
    fresh = f"web-{hashlib.sha256((key or new_request_id()).encode(errors='replace')).hexdigest()[:16]}"
    retry = {"base_sec": _number(values["retry_base_sec"]), "max_sec": _number(values["retry_max_sec"])}
    body: dict[str, Any] = {
        "prompt": values["prompt"] if values["prompt"].strip() else "",
        "agent_slug": values["agent_slug"].strip(),
        "context_id": values["context_id"].strip() or fresh,
        "context_hints": [line.strip() for line in values["context_hints"].split("\n") if line.strip()],
        "policy": _given({"timeout_sec": _number(values["timeout_sec"]), "budget": _number(values["budget"])}),
        "desired_format": values["desired_format"],
        "max_attempts": _number(values["max_attempts"]),
        "priority": _number(values["priority"]),
        "run_at": _moment(values["run_at"], values["offset"]),
        "labels": [label.strip() for label in values["labels"].replace("\n", ",").split(",") if label.strip()],
        "concurrency_key": values["concurrency_key"].strip() or None,
        "retry": _given(retry),
        "idempotency_key": key or None,
    }
    return _given(body)


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _number(text: str) -> int | float | str | None:
    """A number; None where nothing was entered, and the text itself where it is none, which `CreateTask` then says."""
    text = text.strip().replace(",", ".")
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text or None


def _moment(text: str, offset: str) -> int | str | None:
    """What a `datetime-local` field says, as epoch milliseconds; the text itself when it is no moment."""
    if not text:
        return None
    try:
        return to_ms(moment_of(text, offset))
    except (ValueError, OverflowError):
        return text


def _values_of(task: Task) -> dict[str, str]:
    return {
        "prompt": task.prompt,
        "agent_slug": task.agent_slug,
        "context_id": task.context_id,
        "context_hints": "\n".join(" ".join(hint.split("\n")) for hint in task.context_hints),
        "desired_format": task.desired_format,
        "timeout_sec": str(task.timeout_sec),
        "budget": f"{task.budget:g}",
        "max_attempts": str(task.max_attempts),
        "priority": str(task.priority),
        "labels": ", ".join(task.labels),
        "concurrency_key": task.concurrency_key or "",
        "retry_base_sec": f"{task.retry_base_sec:g}",
        "retry_max_sec": f"{task.retry_max_sec:g}",
    }


def _keep_values(request: Request, answer: Response, values: Mapping[str, str], *, path: str) -> None:
    kept = {name: value for name, value in values.items() if name not in _NOT_KEPT and value != DEFAULTS[name]}
    text = urlsafe_b64encode(json.dumps(kept).encode()).decode()
    if len(text) <= _LONGEST_COOKIE:
        line = cookie(request.scope, LAST_VALUES_COOKIE, text, path=path, max_age_sec=_KEPT_SEC, http_only=True)
        answer.headers.append("Set-Cookie", line)


def _last_values(request: Request) -> dict[str, str]:
    try:
        kept: Any = json.loads(urlsafe_b64decode(read_cookie(request.scope, LAST_VALUES_COOKIE)))
    except ValueError:
        return {}
    pairs = cast("dict[Any, Any]", kept).items() if isinstance(kept, dict) else ()
    return {name: value for name, value in pairs if name in DEFAULTS.keys() - _NOT_KEPT and isinstance(value, str)}
